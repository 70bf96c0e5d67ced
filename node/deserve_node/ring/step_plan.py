"""A row as the scheduler sees it, and one step as it hands it to the head: token ids and positions, no text."""

from __future__ import annotations

from dataclasses import dataclass, field

from deserve_network.ring_messages import Chunk, Segment
from deserve_plan.cost import StepLoad
from deserve_plan.plan import RingPlan

__all__ = ["Row", "StepPlan"]


@dataclass(slots=True, eq=False)
class Row:
    """A row in the ring's care. `key` is the caller's, `most_new` bounds what it may generate (0: nobody knows), and
    `codec` packs its hidden states on the wire. All below `generated` is the scheduler's."""

    key: int
    prompt: tuple[int, ...]
    score_prompt: bool = False
    most_new: int = 0
    codec: str = "raw"
    generated: list[int] = field(default_factory=list)
    arrival: int = -1
    sequence: int = -1
    computed: int = 0
    """Positions that steps have been composed for."""
    booked_to: int = 0
    """The position at which a decode needs another page; 0 for a row that has not decoded."""
    microbatch: int = -1
    """Where it decodes; -1 until its first token is back."""
    chunks_under_way: int = 0

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.generated)

    def token_ids(self, start: int, count: int) -> list[int]:
        """Ids at positions [start, start + count)."""
        prompt = list(self.prompt[start : start + count])
        first = max(0, start - len(self.prompt))
        return prompt + self.generated[first : first + count - len(prompt)]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step to run.

    `token_ids` are the packed inputs of stage 0, in `segments` by codec, `prompt_tokens` of them from prompts;
    `admitted` the rows whose first chunk it carries. `tune` is the plan that holds from this step on, where it is
    another than before.
    """

    step: int
    microbatch: int
    released: tuple[int, ...]
    admitted: tuple[Row, ...]
    chunks: tuple[Chunk, ...]
    token_ids: list[int]
    segments: tuple[Segment, ...]
    load: StepLoad
    prompt_tokens: int
    tune: RingPlan | None = None
