"""The whole network on one machine: one coordinator and N nodes as real processes, with an emulated internet between.

`async with Testnet(config) as net` returns when every ring serves; leaving it ends every process. The processes run the
same commands that an operator types, and are reached only through what those commands offer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from deserve_testnet.config import TestnetConfig
from deserve_testnet.errors import TestnetError, UsageError
from deserve_testnet.forked import CAN_FORK
from deserve_testnet.market.config import MarketConfig
from deserve_testnet.network_view import NetworkView
from deserve_testnet.processes import Process, Processes
from deserve_testnet.ring_size import check_ring_size
from deserve_testnet.wan.internet import Internet

if TYPE_CHECKING:
    from deserve_testnet.market.market import Market
    from deserve_testnet.market.payment import Payment

__all__ = ["Testnet"]

_COORDINATOR_MEMBER = 0

Result = TypeVar("Result")


class Testnet:
    """A running testnet.

    `base_url` and `api_key` are the coordinator's, `multiaddr` is where nodes find it, `nodes` are the node processes
    in the order they were started (`await net.nodes[1].kill()` is a power cut), `view` reads the coordinator's account
    of the rings, and `setup_s` is how long it took until all of them served.
    """

    __test__ = False
    base_url: str
    api_key: str
    multiaddr: str
    setup_s: float
    coordinator: Process
    directory: Path
    view: NetworkView

    def __init__(self, config: TestnetConfig, say: Callable[[str], None] = lambda line: None) -> None:
        """`say` gets a line for each step of the start."""
        self.config = config
        self.say = say
        self.nodes: list[Process] = []
        self.internet: Internet | None = None
        self.market: Market | None = None
        """Where work is paid for."""
        self._tolerances: Path | None = None
        self._numbers = itertools.count(1)
        self._processes: Processes
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        begin = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            self.directory = self._make_directory(stack)
            self._processes = await stack.enter_async_context(Processes(self.directory))
            try:
                async with asyncio.timeout(self.config.start_deadline_s) as deadline:
                    await self._start(stack)
            except TimeoutError:
                if not deadline.expired():  # some other wait's
                    raise
                raise TestnetError(
                    f"the rings were not ready after {self.config.start_deadline_s:.0f} s{self._tails()}"
                ) from None
            self._stack = stack.pop_all()
        self.setup_s = time.monotonic() - begin
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def add_node(self, *, memory: str = "", threads: int = 0) -> Process:
        """Start one more node; returns when it has registered with the coordinator.

        Raises ProcessDied with the end of its log if it does not get that far.
        """
        number = next(self._numbers)
        name = f"node-{number}"
        threads = threads or self.config.node_threads
        command = [
            *("node", "start", "--name", name, "--data", str(self.directory / name)),
            *("--coordinator", self.multiaddr, "--listen", f"/ip4/{self._address(number)}/tcp/0"),
            *("--http", f"{self._address(number)}:0", "--device", self.config.device),
            *("--memory", memory or self.config.node_memory(number), "--threads", str(threads), "--json"),
            *self.config.node_flags,
        ]
        if self.market is not None:
            operator = await self.market.register(name, self.directory / name)
            command += self.market.node_flags(name, operator)
            command += () if self._tolerances is None else ("--tolerances", str(self._tolerances))
        node = await self._spawn(name, number, command, threads)
        if self.config.market is not None and name in self.config.market.cheats:
            node.ended_by_us = True  # it ends when it is found out
        self.nodes.append(node)
        await node.first_line(self.config.start_deadline_s)
        return node

    def payment(self) -> Payment | None:
        """Who pays for a run's batches; None where nobody does."""
        if self.market is None:
            return None
        from deserve_testnet.market.payment import Payment

        return Payment(self.market, self._processes, self.directory / "coordinator" / "api_key")

    async def restart_coordinator(self) -> None:
        """Kill the coordinator as a power cut would, and start it again on the same data and addresses."""
        http, listen = urlsplit(self.base_url).netloc, self.multiaddr.partition("/p2p/")[0]
        await self.coordinator.kill()
        await self._start_coordinator(http, listen)

    async def until_serving(self, rings: int) -> dict[str, Any]:
        """Wait until at least `rings` rings serve, and return the network's view."""
        return await self.unless_one_dies(self.view.until_serving(rings))

    async def unless_one_dies(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine; if a process ends that nobody told to, cancels it and raises ProcessDied."""
        task = asyncio.create_task(work)
        watch = asyncio.create_task(self._processes.watch())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await watch
            return await task
        finally:
            task.cancel()
            watch.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    def command(self, member: int, arguments: Sequence[str]) -> list[str]:
        """`deserve ARGUMENTS` as it has to be started to run in a member's place; member 0 is the coordinator's."""
        inside = [] if self.internet is None else self.internet.inside(member)
        return [*inside, sys.executable, "-m", "deserve_client.main", *arguments]

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        await check_ring_size(config)
        nodes = "1 node" if config.nodes == 1 else f"{config.nodes} nodes"
        self.say(f"starting a coordinator and {nodes}; the model is {config.model}")
        if config.wan == "netns":
            default = config.link_shapes.default
            self.internet = await Internet.start(
                self._processes,
                1 + config.nodes + config.spare_members,
                latency_ms=default.latency_ms,
                jitter_ms=default.jitter_ms,
                mbit=default.mbit,
                seed=config.seed,
                different=config.differences,
            )
        address = self._address(_COORDINATOR_MEMBER)
        if config.market is not None:
            self.market = await self._open_market(config.market, address)
        await self._start_coordinator(f"{address}:0", f"/ip4/{address}/tcp/0")
        self.say("the coordinator is ready")
        self.view = await stack.enter_async_context(NetworkView(self.base_url, self.api_key))
        turns = asyncio.Semaphore(config.nodes_at_once)
        registered = itertools.count(1)

        async def add_in_turn() -> None:
            async with turns:
                await self.add_node()
            self.say(f"node {next(registered)} of {config.nodes} registered")

        await asyncio.gather(*(add_in_turn() for _ in range(config.nodes)))
        for ring in range(1, config.rings + 1):
            await self.until_serving(ring)
            self.say(f"ring {ring} of {config.rings} serves")

    async def _start_coordinator(self, http: str, listen: str) -> None:
        arguments = self._coordinator_arguments(http, listen)
        self.coordinator = await self._spawn("coordinator", _COORDINATOR_MEMBER, arguments, 1)
        ready = await self.coordinator.first_line(self.config.start_deadline_s)
        self.base_url, self.api_key, self.multiaddr = ready["base_url"], ready["api_key"], ready["multiaddr"]

    def _coordinator_arguments(self, http: str, listen: str) -> list[str]:
        config = self.config
        emulated = config.wan == "inline"
        return [
            *("coordinator", "start", "--model", config.model, "--dtype", config.dtype),
            *("--data", str(self.directory / "coordinator"), "--http", http),
            *("--listen", listen, "--ring-size", str(config.nodes // config.rings)),
            *("--link-latency-ms", str(config.latency_ms if emulated else 0.0)),
            *("--link-jitter-ms", str(config.jitter_ms if emulated else 0.0)),
            *("--link-mbit", str(config.mbit if emulated else 0.0)),
            *("--seed", str(config.seed), "--settle-s", str(config.settle_s), "--json"),
            *(("--links", str(config.links)) if emulated and config.links else ()),
            *("--context-tokens", str(0 if config.profile is None else config.profile.common.context_tokens)),
            *(() if self.market is None else self.market.coordinator_flags()),
        ]

    async def _open_market(self, config: MarketConfig, address: str) -> Market:
        from deserve_ledger.errors import LedgerError
        from deserve_testnet.market.market import Market
        from deserve_testnet.market.tolerances import tolerances

        self._tolerances = await tolerances(self.config, self._processes, self.directory, self.say)
        inside = self.command(_COORDINATOR_MEMBER, ["ledger", "devnet"])
        try:
            return await Market.open(
                config, self._processes, inside, self.directory, address, self.config.start_deadline_s, self.say
            )
        except LedgerError as error:
            raise TestnetError(f"--ledger {config.ledger}: {error}") from error

    def _address(self, member: int) -> str:
        if self.internet is None:
            return "127.0.0.1"
        if member >= len(self.internet.addresses):
            raise UsageError(f"no network namespace is left for node-{member}: raise spare_members")
        return self.internet.addresses[member]

    async def _spawn(self, name: str, member: int, arguments: Sequence[str], threads: int) -> Process:
        # Thread pools that a library sizes by itself would take every core in every process.
        environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "DESERVE_TESTNET": "1"}
        if self.internet is None and CAN_FORK:
            return await self._processes.fork(name, arguments, environment)
        return await self._processes.spawn(name, self.command(member, arguments), environment)

    def _make_directory(self, stack: contextlib.AsyncExitStack) -> Path:
        if self.config.directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="deserve-testnet-", ignore_cleanup_errors=True)
            return Path(stack.enter_context(temporary))
        try:
            self.config.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--keep: {error}") from error
        return self.config.directory.resolve()

    def _tails(self) -> str:
        processes = [self.nodes[0]] if self.nodes else []
        if hasattr(self, "coordinator"):
            processes.insert(0, self.coordinator)
        return "".join(f"\n{process.name}{process.tail()}" for process in processes)
