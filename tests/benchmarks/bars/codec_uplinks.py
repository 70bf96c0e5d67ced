"""Bar k: SmolLM2 over home uplinks, once with raw hidden states and once with every codec allowed.

The planner proposes one for each uplink; it should be the one that is fastest of those set by hand, and the ring that
was left the choice faster than raw's link bound, where that binds. What the codecs cost in agreement
`tests/benchmarks/codecs.py` measures.
"""

from __future__ import annotations

from collections.abc import Sequence

from bars.group import Settings
from bars.journal import Journal
from bars.networks import SteadyNetwork
from bars.rounds import Contestant, Experiment
from bars.rows import Requirement, Row
from bars.scripts import script
from bars.steady import Rows
from deserve_testnet.config import TestnetConfig

__all__ = ["UPLINKS_MBIT", "experiments", "rows"]

UPLINKS_MBIT = (1, 2, 5)
_LATENCY_MS = 20
_CODECS = ("raw", "bf16", "int8")
_ANY = "any codec"
_AGREEMENT = "k agreement"
_STAGES, _PROMPT, _NEW = 4, 8, 32
_RAW_BYTES = 576 * 4
"""Hidden states of one token of SmolLM2 in fp32."""


def experiments(settings: Settings) -> list[Experiment]:
    uplinks = UPLINKS_MBIT[:1] if settings.quick else UPLINKS_MBIT
    few = ["--prompts", "2", "--new-tokens", "4"] if settings.quick else []
    agreement = Experiment(_AGREEMENT, (script(_AGREEMENT, "codecs.py", [*few, "--json"]),), rounds=1)
    rings = [Experiment(_name(mbit), _contestants(mbit, settings), settings.rounds, kept=False) for mbit in uplinks]
    return [agreement, *rings]


def rows(journal: Journal, settings: Settings) -> list[Row]:
    found = _agreement(journal)
    for mbit in UPLINKS_MBIT:
        name = _name(mbit)
        forced = {codec: journal.by_round(name, codec, "tokens_per_s") for codec in _CODECS}
        plans = [figures["plan"].get("codec", "?") for figures in journal.rounds(name, _ANY).values()]
        proposed = f"proposed: {', '.join(dict.fromkeys(plans))}" if plans else ""
        chosen = journal.by_round(name, _ANY, "tokens_per_s")
        over_best = [
            forced[codec][number] / max(rates[number] for rates in forced.values())
            for number, codec in zip(chosen, plans, strict=True)
            if codec in forced and all(number in rates for rates in forced.values())
        ]
        found.append(
            Row.of(Requirement("k", f"{mbit} Mbit/s: proposed / best codec", ">=", 0.95, "x"), over_best, proposed)
        )
        bound = _raw_link_bound(mbit)
        over_bound = [rate / bound for rate in chosen.values()]
        note = f"raw's link bound is {bound:.0f} tok/s"
        binds = bool(forced["raw"]) and min(forced["raw"].values()) > 0.8 * bound
        sense = ">=" if binds or not forced["raw"] else "report"
        found.append(
            Row.of(Requirement("k", f"{mbit} Mbit/s: proposed / raw's link bound", sense, 1.0, "x"), over_bound, note)
        )
        found += [
            Row.of(Requirement("k", f"{mbit} Mbit/s: {codec}", "report", unit=" tok/s"), tuple(rates.values()))
            for codec, rates in {**forced, _ANY: chosen}.items()
        ]
    return found


def _name(mbit: int) -> str:
    return f"k {mbit} Mbit/s"


def _raw_link_bound(mbit: float) -> float:
    """Tokens per second of a link that carries raw hidden states of all that a row passes: its last token is not."""
    generated = _workload(mbit).mean_new_tokens
    return mbit * 125_000 / _RAW_BYTES * generated / (_PROMPT + generated - 1)


def _workload(mbit: float, codecs: tuple[str, ...] = ()) -> Rows:
    # Half the rate that the link would carry were all packed to a quarter: rows enough for that.
    rate = 4 * mbit * 125_000 / _RAW_BYTES
    return Rows(96 if mbit <= 1 else 192, _PROMPT, _NEW, rate, codecs=codecs)


def _agreement(journal: Journal) -> list[Row]:
    found = []
    for codecs in journal.values(_AGREEMENT, _AGREEMENT, "codecs"):
        for of in codecs:  # type: ignore[attr-defined]
            note = f"{of['bytes_per_token']:.0f} bytes a token, KL {of['mean_kl']:.1e}, "
            note += f"{of['greedy_prefix_kept']:.0%} of greedy continuations kept"
            agreed = Requirement("k", f"{of['codec']}: likeliest token agrees", "report")
            found.append(Row.of(agreed, [of["top1_agreement"]], note))
    return found


def _contestants(mbit: float, settings: Settings) -> Sequence[Contestant]:
    def network(name: str, codecs: tuple[str, ...], plan: str) -> Contestant:
        config = TestnetConfig(nodes=_STAGES, latency_ms=_LATENCY_MS, mbit=mbit, memory="2GiB", plan=plan)
        return SteadyNetwork(
            name,
            config,
            _workload(mbit, codecs),
            window_s=3 if settings.quick else 20,
            settle_s=0 if settings.quick else 10,
        ).contestant()

    forced = (network(codec, () if codec == "raw" else (codec,), f"codec={codec}") for codec in _CODECS)
    return (*forced, network(_ANY, _CODECS[1:], ""))
