"""A row at the head of a ring: from the leased request body to the response body.

Everything that has to do with text happens here, with `deserve_text`; the scheduler sees token ids only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from deserve_network.control_messages import Lease, LeasedRow, RowLog, RowResult
from deserve_network.ring_messages import Admit, RowLabel, SampledToken, Sampling, TokenBias
from deserve_node.ring.step_plan import Row
from deserve_text.error_body import error_body
from deserve_text.errors import RequestError
from deserve_text.output import OutputText
from deserve_text.requests import CompletionRequest, parse_request
from deserve_text.responses import build_response
from deserve_text.tokenizer import TextModel

__all__ = ["HeadRow", "error_result", "open_all", "open_row", "too_large"]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class HeadRow:
    """One leased row under way. `scored` are the prompt's log-probabilities, if asked for, and `kept` the tokens drawn
    where theirs are: otherwise a token is no more than its id, which the scheduler's row has."""

    leased: LeasedRow
    lease: int
    fence: int
    text: TextModel
    request: CompletionRequest
    row: Row
    output: OutputText
    sampling: Sampling
    kept: list[SampledToken] = field(default_factory=list)
    admissions: int = 0
    """So far."""
    scored: dict[int, SampledToken] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.output.finish_reason is not None

    @property
    def part_left(self) -> float:
        """Of the tokens that it may generate, those that it has not: 1 before it begins."""
        return 1.0 - self.output.count / self.row.most_new if self.row.most_new else 1.0

    @property
    def generated(self) -> Sequence[SampledToken]:
        """The row's token log."""
        if self.request.logprobs >= 0:
            return self.kept
        ids = self.row.generated[: self.output.count]
        return [SampledToken(0, position, token) for position, token in enumerate(ids, len(self.row.prompt))]

    def push(self, token: SampledToken) -> bool:
        """One more token drawn, which the scheduler's row has already. Returns whether it was the last."""
        if self.request.logprobs >= 0:
            self.kept.append(token)
        return self.output.push(token.token)

    def admit(self, ring: str, epoch: int) -> Admit:
        return Admit(ring, epoch, self.row.sequence, self.sampling, self.row.prompt, tuple(self.row.generated))

    def label(self) -> RowLabel | None:
        """What the work on it is booked under from this admission on, which counts; None where nobody pays for it."""
        if (work := self.leased.work) is None:
            return None
        attempt, self.admissions = work.attempt + self.admissions, self.admissions + 1
        return RowLabel(self.row.sequence, work.job_id, work.row, work.lease, attempt, self.row.length)

    def result(self, created: int) -> RowResult:
        """The finished row as the coordinator stores it."""
        generated = self.generated
        scored = [self.scored[position] for position in sorted(self.scored)]
        body = build_response(
            self.text,
            self.request,
            self.row.prompt,
            generated,
            scored,
            self.output,
            f"{'chatcmpl' if self.request.messages is not None else 'cmpl'}-{self.leased.row}",
            created,
        )
        if self.leased.codec != "raw":
            # Whoever reads one result must see that it is not the exact one.
            body["deserve"] = {"codec": self.leased.codec}
        return RowResult(
            self.leased.row,
            self.lease,
            self.fence,
            json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
            200,
            len(self.row.prompt),
            len(generated),
        )

    def log(self) -> RowLog:
        return RowLog(self.leased.row, self.lease, self.fence, tuple(self.generated))


def open_all(rows: Sequence[LeasedRow], lease: Lease, text: TextModel) -> list[HeadRow | RowResult]:
    """Open `rows` of `lease`, in order. One that cannot be served becomes its error, and disturbs no other."""
    return [_open_or_error(leased, lease, text) for leased in rows]


def _open_or_error(leased: LeasedRow, lease: Lease, text: TextModel) -> HeadRow | RowResult:
    try:
        return open_row(leased, lease, text)
    except RequestError as error:
        return error_result(leased, lease.lease, lease.fence, error)
    except Exception as error:
        # Templates and tokenizers run what a model's author wrote: whatever they raise is this row's failure only.
        log.exception("row %d cannot be opened", leased.row)
        reason = f"the row cannot be tokenised: {type(error).__name__}: {error}"
        return error_result(
            leased, lease.lease, lease.fence, RequestError("", reason[:1024], "tokenizer_error", status=500)
        )


def open_row(leased: LeasedRow, lease: Lease, text: TextModel) -> HeadRow:
    """Parse, tokenise and replay the row's token log. Raises `RequestError` for a row that cannot be served."""
    request = parse_request(leased.endpoint, json.loads(leased.body))
    prompt = text.encode(request)
    row = HeadRow(
        leased=leased,
        lease=lease.lease,
        fence=lease.fence,
        text=text,
        request=request,
        row=Row(
            leased.row,
            prompt,
            score_prompt=request.echo and request.logprobs >= 0,
            most_new=text.limit_of(request, len(prompt)),
            codec=leased.codec,
        ),
        output=OutputText(text, request, prompt),
        sampling=sampling_of(request, text, leased.seed),
    )
    for token in leased.generated:
        row.row.generated.append(token.token)
        row.push(token)
    return row


def sampling_of(request: CompletionRequest, text: TextModel, seed: int) -> Sampling:
    """What the tail must know; `seed` serves where the request names none."""
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=tuple(TokenBias(token, bias) for token, bias in request.logit_bias),
        seed=seed if request.seed is None else request.seed,
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else -1,
        min_tokens=request.min_tokens,
        stop_token_ids=tuple(text.eos_token_ids),
    )


def error_result(leased: LeasedRow, lease: int, fence: int, error: RequestError) -> RowResult:
    """A row that ends as an error, in OpenAI's shape."""
    body = error_body(error.status, error.message, param=error.param, code=error.code)
    return RowResult(leased.row, lease, fence, json.dumps(body).encode(), error.status, 0, 0)


def too_large(row: HeadRow) -> RowResult:
    """The row as the error of one that needs more KV memory than the ring has."""
    error = RequestError(
        "max_tokens",
        f"after {row.row.length} tokens the row needs more KV memory than this ring has",
        "row_exceeds_kv_capacity",
    )
    return error_result(row.leased, row.lease, row.fence, error)
