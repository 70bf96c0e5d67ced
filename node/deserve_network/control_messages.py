"""What a node and the coordinator say to each other, stream protocol `/deserve/control/1`.

The node opens the stream and speaks first: Hello -> Welcome -> Offer. From then on the coordinator sends Assign,
Begin, Lease, Recall, Cancel and Release; the node answers StageReady or StageFailed, and the head of a ring asks for
rows and returns results. A head keeps every `RowsDone` until the `RowsStored` that names it: nothing finished is lost.
What is said about money is in `money_messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from deserve_network.congestion import MOST_NAME
from deserve_network.money_messages import (
    Account,
    CreditNote,
    LedgerRef,
    Prices,
    Receipts,
    ReceiptsStored,
    WorkLabel,
)
from deserve_network.ring_messages import MAX_CONTEXT, SampledToken
from deserve_network.schema import Max, Table

__all__ = ["CONTROL", "CONTROL_PROTOCOL"]

CONTROL_PROTOCOL = "/deserve/control/1"
PROTOCOL_VERSION = 1

MAX_STAGES = 256
MAX_LEASE_ROWS = 4096
MAX_BODY = 4 << 20
MAX_CODECS = 16

Addresses = Annotated[tuple[str, ...], Max(16)]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model of a swarm. Equal digests mean equal architecture and tensor layout; weights are not compared."""

    id: str
    """What the operator asked for: "demo", a directory, a GGUF file or a Hub id."""
    revision: str
    digest: Annotated[str, Max(64)]
    """SHA-256 over config.json and the tensor index (see `deserve_models.files`)."""
    dtype: Annotated[str, Max(16)]


@dataclass(frozen=True, slots=True)
class Hello:
    """Node to coordinator, first."""

    version: int
    name: Annotated[str, Max(64)]
    addresses: Addresses
    """Multiaddresses (with /p2p/) where other nodes reach this one."""
    memory_bytes: int
    """What the operator lends for weights and KV together."""
    device: Annotated[str, Max(64)]
    token: Annotated[str, Max(256)] = ""
    """The join token of a coordinator that asks for one."""


@dataclass(frozen=True, slots=True)
class Welcome:
    version: int
    model: ModelRef
    stats_interval_s: float
    ledger: LedgerRef | None = None
    """Where work is paid; nil: nothing is paid here."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Either side, then the stream closes. `field` names what was wrong."""

    field: Annotated[str, Max(64)]
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What this node measured for the swarm's model."""

    digest: Annotated[str, Max(64)]
    layer_time_s: float
    """One decoder layer over 64 decode tokens, the best of a few."""
    speed_class: Annotated[str, Max(64)]
    """Equal for nodes that must be equally fast, processes of one machine with the same device and as many threads:
    they may have measured each other's noise, so the best of their times holds for all. Empty: like no other."""
    layer_bytes: int
    edge_bytes: int
    """Embedding, or output head with norm, whichever is larger; 0 counted once where they are tied."""
    kv_bytes_per_token_layer: int
    account: Account | None = None
    """Who is paid for this node's work; nil: nobody, it works for nothing."""
    prices: Prices | None = None


@dataclass(frozen=True, slots=True)
class StagePlace:
    """One stage of a ring: node and layer range [first, last)."""

    peer_id: Annotated[str, Max(128)]
    name: Annotated[str, Max(64)]
    addresses: Addresses
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class LinkShape:
    """The emulated internet on a link, where zeros mean the real network as it is, and how TCP is to use it."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    mbit: float = 0.0
    seed: int = 0
    congestion: Annotated[str, Max(MOST_NAME)] = ""
    """Congestion control of both ends, where the link has a connection of its own; empty: each node's."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Coordinator to every node of a ring: load this range and link up. Replaces any earlier assignment."""

    ring: Annotated[str, Max(64)]
    epoch: int
    stage: int
    stages: Annotated[tuple[StagePlace, ...], Max(MAX_STAGES)]
    model: ModelRef
    links: Annotated[tuple[LinkShape, ...], Max(MAX_STAGES)]
    """From each stage to the next, and from the last to the first; or none: nothing is emulated."""


@dataclass(frozen=True, slots=True)
class KvPool:
    """Pages of one group of layers that share a page table on one stage."""

    window: int
    """Tokens a layer of this group looks back; 0 means all."""
    chunk: int
    """Tokens of one attention chunk (Llama 4); 0 means none."""
    pages: int
    """On the device."""
    host_pages: int = 0
    """More of them in host memory, swapped in while another microbatch computes."""


@dataclass(frozen=True, slots=True)
class CostFit:
    """A stage's step time as fitted to what it measured: see `deserve_plan.cost.StageCost`."""

    fixed_s: float
    token_s: float
    wanted_s: float
    context_s: float
    pair_s: float
    granularity: int


@dataclass(frozen=True, slots=True)
class LinkMeasure:
    """The onward link of a stage as measured on the live link; see `deserve_plan.figures.LinkFigures`."""

    latency_s: float
    latency_spread_s: float
    bytes_per_s: float
    bandwidth_spread: float


@dataclass(frozen=True, slots=True)
class StageReady:
    """Weights are resident, KV pools allocated, links up and measured."""

    ring: Annotated[str, Max(64)]
    epoch: int
    stage: int
    page_tokens: int
    page_bytes: int
    """Of one page of every pool together, over all layers of the stage."""
    pools: Annotated[tuple[KvPool, ...], Max(64)]
    copy_in_bytes_per_s: float
    copy_out_bytes_per_s: float
    """Between host memory and device; 0 where nothing is swapped."""
    cost: CostFit
    link: LinkMeasure
    """To the next stage, at the tail to the head; all zero in a ring of one."""
    machine: Annotated[str, Max(64)]
    """Equal for stages that share processor cores; see `cores`."""
    cores: int
    threads: int
    """Cores of the machine that this stage may use, and how many of them it computes with."""
    occupies_cores: bool
    """Whether computing takes those cores; not so on a GPU or in a timed stage."""


@dataclass(frozen=True, slots=True)
class StageFailed:
    """A stage cannot serve, or a link of it is lost: the ring is dissolved and planned anew."""

    ring: Annotated[str, Max(64)]
    epoch: int
    stage: int
    reason: str
    suspect: Annotated[str, Max(128)] = ""
    """Peer id of the neighbour that was lost, if the failure is not ours."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Coordinator to the head once every stage is ready."""

    ring: Annotated[str, Max(64)]
    epoch: int
    ready: Annotated[tuple[StageReady, ...], Max(MAX_STAGES)]


@dataclass(frozen=True, slots=True)
class Release:
    """Coordinator to every node of a ring: drop it. A head first returns what it has (`RowsReturned`)."""

    ring: Annotated[str, Max(64)]
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """Head to coordinator: room for `rows` more. Answered by a `Lease` as soon as there is work."""

    ring: Annotated[str, Max(64)]
    epoch: int
    rows: int
    codecs: Annotated[tuple[Annotated[str, Max(32)], ...], Max(MAX_CODECS)] = ()
    """Wire codecs with which this ring would be faster than with raw, the fastest first: a job that starts now gets the
    first that it allows, else raw."""


@dataclass(frozen=True, slots=True)
class LeasedRow:
    row: int
    """Row key in the coordinator's store."""
    endpoint: Annotated[str, Max(64)]
    body: Annotated[bytes, Max(MAX_BODY)]
    """The row's OpenAI request body, JSON in UTF-8 exactly as validated."""
    seed: int
    """Used where the body names none."""
    generated: Annotated[tuple[SampledToken, ...], Max(MAX_CONTEXT)] = ()
    """Token log of an earlier attempt."""
    codec: Annotated[str, Max(32)] = "raw"
    """How this row's hidden states cross links: fixed for its job when that started."""
    work: WorkLabel | None = None
    """What its work is booked under; nil: nobody pays for it."""


@dataclass(frozen=True, slots=True)
class Lease:
    lease: int
    fence: int
    deadline_s: float
    """From receipt."""
    rows: Annotated[tuple[LeasedRow, ...], Max(MAX_LEASE_ROWS)]
    waiting: int = 0
    """Rows that no ring has yet and that are this one's, if all take equal parts: it tells when it will be done."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """One finished row: a result, or an error with the OpenAI error code."""

    row: int
    lease: int
    fence: int
    body: Annotated[bytes, Max(16 << 20)]
    """The response body (or the error object), JSON in UTF-8."""
    status: int
    """HTTP status of the row: 200, 400 for a row that can never be served, 500 for our fault."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class RowsDone:
    ring: Annotated[str, Max(64)]
    epoch: int
    report: int
    """Grows by one a report; repeated verbatim until acknowledged."""
    results: Annotated[tuple[RowResult, ...], Max(MAX_LEASE_ROWS)]


@dataclass(frozen=True, slots=True)
class RowsStored:
    """Coordinator to head after the durable commit."""

    ring: Annotated[str, Max(64)]
    report: int


@dataclass(frozen=True, slots=True)
class RowLog:
    row: int
    lease: int
    fence: int
    generated: Annotated[tuple[SampledToken, ...], Max(MAX_CONTEXT)]


@dataclass(frozen=True, slots=True)
class RowsReturned:
    """Head to coordinator on Release or Recall: unfinished rows with their token logs."""

    ring: Annotated[str, Max(64)]
    epoch: int
    rows: Annotated[tuple[RowLog, ...], Max(MAX_LEASE_ROWS)]
    recalled: bool = False
    """The answer to a Recall: the ring goes on with the rest."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Coordinator to head: give back up to `rows` unfinished rows (`RowsReturned`); another ring has fewer."""

    ring: Annotated[str, Max(64)]
    epoch: int
    rows: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Coordinator to head: forget these rows; nothing is to be reported for them."""

    ring: Annotated[str, Max(64)]
    rows: Annotated[tuple[int, ...], Max(MAX_LEASE_ROWS)]


@dataclass(frozen=True, slots=True)
class PlanReport:
    """The head's plan, what it predicts and what was measured over the last steps; see `deserve_plan.plan`."""

    microbatches: int
    rows_per_microbatch: int
    step_budget_s: float
    swap_pages: Annotated[tuple[int, ...], Max(MAX_STAGES)]
    prefetch_depth: int
    coalesce: int
    codec: Annotated[str, Max(32)]
    bound: str
    predicted_tokens_per_s: float
    predicted_utilisation: Annotated[tuple[float, ...], Max(MAX_STAGES)]
    predicted_finish_s: float
    """From now until the rows that the ring has or will get are done, as predicted at its last lease; 0: not known."""
    measured_tokens_per_s: float
    """Generated tokens over the last windows in a row in which the ring was in its planned steady state; 0 before."""
    measured_utilisation: Annotated[tuple[float, ...], Max(MAX_STAGES)]
    steady_s: float
    """How long those were together."""
    all_steps_s: float
    """What all steps so far took, filling and draining included."""
    all_steps_predicted_s: float
    """What the plans of their time give for those very steps."""
    plans: int
    """Plans made since the ring began, this one included."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Every node, every `stats_interval_s`. Also the sign of life of an idle node."""

    ring: Annotated[str, Max(64)]
    epoch: int
    uptime_s: float
    busy_s: float
    """Seconds spent computing since the stage began."""
    since_begin_s: float
    steps: int
    tokens: int
    """Tokens (prompt and decode) that passed this stage."""
    kv_pages_used: int
    kv_pages: int
    bytes_sent: int
    bytes_received: int
    rtt_ms: float
    """To the next stage; 0 where there is none."""
    rows_active: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    microbatches: int = 0
    rows_per_microbatch: int = 0
    """These five are the head's alone."""
    plan: PlanReport | None = None
    """Of a head that has begun."""
    carrier: Annotated[str, Max(16)] = ""
    """What the link to the next stage lives on, as `Link.carrier` says."""


CONTROL = Table(
    "control",
    {
        1: Hello,
        2: Welcome,
        3: Refused,
        4: Offer,
        5: Assign,
        6: StageReady,
        7: StageFailed,
        8: Begin,
        9: Release,
        10: LeaseRequest,
        11: Lease,
        12: RowsDone,
        13: RowsStored,
        14: RowsReturned,
        15: Cancel,
        16: Stats,
        17: Recall,
        18: Receipts,
        19: ReceiptsStored,
        20: CreditNote,
    },
    max_bytes=64 << 20,
)
