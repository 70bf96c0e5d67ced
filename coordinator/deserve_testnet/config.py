"""What a testnet is made of: one frozen object that the commands fill from their flags and tests build directly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deserve_coordinator.errors import ConfigurationError
from deserve_coordinator.link_shapes import LinkShapes, load_link_shapes
from deserve_network.congestion import check_congestion
from deserve_network.control_messages import LinkShape
from deserve_network.errors import CongestionError
from deserve_node.settings import LEAST_ROWS, MOST_ROWS, SettingsError, parse_bytes
from deserve_node.timed.profile import ProfileError, RingProfile, load_profile
from deserve_plan.plan import PlanOverrides
from deserve_process.cores import usable_cores
from deserve_testnet.errors import UsageError
from deserve_testnet.market.config import MarketConfig
from deserve_testnet.profiles import profile_file
from deserve_testnet.wan.differences import Differences, differences

__all__ = ["TestnetConfig", "Wan"]

Wan = Literal["inline", "netns"]

_MEMORY_SHARE = 0.4
"""KV memory is taken only as it is written, so this is a bound; each process has half a GB of libraries besides."""
_MAX_NODE_MEMORY = 8 << 30


@dataclass(frozen=True)
class TestnetConfig:
    """Raises UsageError, naming the flag, for what cannot be a testnet."""

    __test__ = False

    model: str = "demo"
    """"demo", a directory in Hugging Face layout, a GGUF file or a Hub id."""
    nodes: int = 4
    rings: int = 1
    latency_ms: float = 0.0
    """One way, on every link."""
    jitter_ms: float = 0.0
    mbit: float = 0.0
    """Bandwidth of a link (inline) or of a node's up- and downlink (netns); 0 is unlimited."""
    links: Path | None = None
    """TOML of links and nodes that differ from that, see `deserve_coordinator.link_shapes`."""
    wan: Wan = "inline"
    carrier: Literal["auto", "libp2p"] = "auto"
    """What tensors travel on, as `deserve node start` takes it."""
    congestion: str = ""
    """TCP's, of every node; empty: the system's."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    memory: str = ""
    """What each node lends, like "2GiB", or one amount for each with commas; empty divides a share of what is free."""
    threads: int = 0
    """Of each node; 0 divides the cores."""
    max_rows: int = 0
    """In flight in a ring, at most; 0: as a node has it."""
    device: str = "auto"
    kv_memory: str = ""
    host_memory: str = ""
    copy_rate: str = ""
    """Of each node, as `deserve node start` takes them; empty is its default."""
    page_tokens: int = 16
    plan: str = ""
    """What of the rings' plans is set by hand, like "microbatches=20,rows=75"."""
    stage_profile: str = ""
    """A TOML file, or the name of one in `profiles`: stages take its times instead of computing."""
    market: MarketConfig | None = None
    """Where work is paid for; None: it is not."""
    directory: Path | None = None
    """Where data and logs of every process are kept; None: a temporary directory, removed at the end."""
    spare_members: int = 0
    """Network namespaces beyond those of the first nodes, for nodes that join later (netns only)."""
    settle_s: float = 5.0
    """How long a node that joins later waits for others before it widens a ring."""
    start_deadline_s: float = 300.0

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UsageError(f"--nodes: at least 1, not {self.nodes}")
        if self.rings < 1 or self.nodes % self.rings:
            raise UsageError(f"--rings: {self.nodes} nodes cannot be cut into {self.rings} rings of equal size")
        for flag, value in (("latency-ms", self.latency_ms), ("jitter-ms", self.jitter_ms), ("mbit", self.mbit)):
            if not 0 <= value < 1e6:
                raise UsageError(f"--{flag}: cannot be {value}")
        if self.threads < 0:
            raise UsageError(f"--threads: cannot be {self.threads}")
        if self.max_rows and not LEAST_ROWS <= self.max_rows <= MOST_ROWS:
            raise UsageError(f"--max-rows: from {LEAST_ROWS} to {MOST_ROWS}, not {self.max_rows}")
        if not self.start_deadline_s > 0:
            raise UsageError(f"--start-timeout-s: cannot be {self.start_deadline_s}")
        if len(self._memories) not in (1, self.nodes):
            raise UsageError(f"--memory: {len(self._memories)} amounts for {self.nodes} nodes")
        for flag, amount in (
            *(("memory", amount) for amount in self._memories),
            ("kv-memory", self.kv_memory),
            ("host-memory", self.host_memory),
            ("copy-rate", self.copy_rate),
        ):
            _check_amount(flag, amount)
        try:
            check_congestion(self.congestion)
        except CongestionError as error:
            raise UsageError(f"--congestion: {error}") from error
        try:
            PlanOverrides.parse(self.plan)
        except ValueError as error:
            raise UsageError(f"--plan: {error}") from error
        if self.market is not None:
            self.market.check_nodes(self.nodes)
        self._check_links()
        _ = self.differences
        stages, profile = self.nodes // self.rings, self.profile
        if profile is not None and len(profile.stages) > stages:
            raise UsageError(f"--stage-profile: stages[{stages}]: a ring has {stages} stages here")

    def _check_links(self) -> None:
        """Raises UsageError where `links` speaks of a node or a place that is not here: it would change nothing."""
        shapes = self.link_shapes
        members, stages = self.nodes + self.spare_members, self.nodes // self.rings
        named: list[tuple[str, str | int]] = [(f"node[{at}].name", name) for at, name in enumerate(shapes.nodes)]
        for at, rule in enumerate(shapes.rules):
            named += (f"link[{at}].from", rule.origin), (f"link[{at}].to", rule.target)
            try:
                check_congestion(rule.congestion)
            except CongestionError as error:
                raise UsageError(f"--links {self.links}: link[{at}].congestion: {error}") from error
        names = {f"node-{number}" for number in range(1, members + 1)}
        for key, value in named:
            if isinstance(value, str) and value not in names:
                raise UsageError(f"--links {self.links}: {key}: {value!r} is no node from node-1 to node-{members}")
            if isinstance(value, int) and value >= stages:
                raise UsageError(f"--links {self.links}: {key}: no place {value} in a ring of {stages}, counted from 0")
        for at, rule in enumerate(shapes.rules):
            if isinstance(rule.origin, int) and isinstance(rule.target, int):
                onward = (rule.origin + 1) % stages
                if rule.target != onward:
                    where = f"--links {self.links}: link[{at}].to"
                    raise UsageError(f"{where}: in a ring of {stages}, place {rule.origin} sends to {onward}")

    @property
    def link_shapes(self) -> LinkShapes:
        """All of the emulated internet. Raises UsageError."""
        default = LinkShape(self.latency_ms, self.jitter_ms, self.mbit, self.seed)
        try:
            return LinkShapes(default) if self.links is None else load_link_shapes(self.links, default)
        except ConfigurationError as error:
            raise UsageError(str(error)) from error

    @property
    def differences(self) -> Differences:
        """Of namespaces; none where the nodes themselves emulate. Raises UsageError."""
        shapes = self.link_shapes
        return differences(shapes) if self.wan == "netns" else Differences()

    @property
    def node_flags(self) -> list[str]:
        """What `deserve node start` is told of links, rows, KV memory and plan."""
        given = {
            "--carrier": self.carrier,
            "--congestion": self.congestion,
            "--max-rows": str(self.max_rows or ""),
            "--kv-memory": self.kv_memory,
            "--host-memory": self.host_memory,
            "--copy-rate": self.copy_rate,
            "--plan": self.plan,
            "--stage-profile": str(self.profile_file or ""),
        }
        pages = ["--page-tokens", str(self.page_tokens)]
        return [*pages, *(word for flag, value in given.items() if value for word in (flag, value))]

    @property
    def profile_file(self) -> Path | None:
        return profile_file(self.stage_profile) if self.stage_profile else None

    @property
    def profile(self) -> RingProfile | None:
        """What `stage_profile` says. Raises UsageError."""
        try:
            return None if self.profile_file is None else load_profile(self.profile_file)
        except ProfileError as error:
            raise UsageError(f"--stage-profile: {error}") from error

    @property
    def node_threads(self) -> int:
        return self.threads or (1 if self.stage_profile else max(1, usable_cores() // self.nodes))

    @property
    def nodes_at_once(self) -> int:
        """How many may start at the same time. No more than there are cores where a node measures its speed at the
        start: its share of the layers goes by it."""
        return self.nodes if self.stage_profile else max(1, usable_cores() // self.node_threads)

    @property
    def _memories(self) -> list[str]:
        return self.memory.split(",")

    def node_memory(self, number: int) -> str:
        """What node `number` lends, 1 for the first; one that comes later lends what the last one does."""
        if self.memory:
            return self._memories[min(number, len(self._memories)) - 1]
        return str(min(_MAX_NODE_MEMORY, int(_available_bytes() * _MEMORY_SHARE) // self.nodes))


def _check_amount(flag: str, amount: str) -> None:
    try:
        if amount:
            parse_bytes(amount, f"--{flag}")
    except SettingsError as error:
        raise UsageError(str(error)) from error


def _available_bytes() -> int:
    """Memory that can be had without swapping; where the system does not say, half of all there is."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
