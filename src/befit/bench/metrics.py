"""What happened to each request, and the numbers that come of it. docs/benchmarks.md has the formulas.

Times inside are seconds of time.perf_counter; results are in milliseconds and tokens or requests a second. Names and
formulas are those of vLLM's serving benchmark where that is unambiguous.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from befit.errors import ConfigError

Metric = dict[str, float | None]
SLO_NAMES = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2e", "e2el": "e2e"}


@dataclass(slots=True)
class Record:
    """One request as the client saw it.

    due: when an open loop meant to send it, 0 in a closed loop. sent: when the client began to connect. tokens: arrival
    of each event that carried output. last: arrival of the last event with a choice. end: when the answer was over.
    The counts are the server's; without usage `output_tokens` is the number of events, and `counted` is False. `error`
    is a kind (see `befit.bench.client`), empty when all went well; `detail` has the particulars.
    """

    number: int = 0
    asked: int = 0
    due: float = 0.0
    sent: float = 0.0
    tokens: list[float] = field(default_factory=list)
    last: float = 0.0
    end: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int = 0
    cached_tokens: int | None = None
    counted: bool = True
    finish_reason: str = ""
    text: str = ""
    error: str = ""
    detail: str = ""

    @property
    def ttft(self) -> float:
        """Time to first token: the first event with output. Without any, the last event with a choice counts."""
        return (self.tokens[0] if self.tokens else self.last) - self.sent

    @property
    def e2e(self) -> float:
        """End-to-end latency: until the last event with a choice."""
        return self.last - self.sent

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first; None when there is no such token."""
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    def itl(self) -> list[float]:
        """Inter-token latencies: the gaps between events with output, which may hold several tokens."""
        return [b - a for a, b in zip(self.tokens, self.tokens[1:], strict=False)]


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest of sorted values, as NumPy's default. NaN without values."""
    if not values:
        return math.nan
    place = (len(values) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def distribution(seconds: Iterable[float]) -> Metric:
    """Mean, percentiles and maximum in milliseconds; None where there is nothing to measure."""
    values = sorted(seconds)
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p99", "max"))
    return {
        "mean": 1000 * sum(values) / len(values),
        "p50": 1000 * percentile(values, 50),
        "p90": 1000 * percentile(values, 90),
        "p99": 1000 * percentile(values, 99),
        "max": 1000 * values[-1],
    }


def parse_slo(texts: Sequence[str]) -> dict[str, float]:
    """`ttft:200,tpot:30,e2e:5000` in milliseconds, in one text or several. Raises ConfigError."""
    slo: dict[str, float] = {}
    for part in (part for text in texts for part in text.replace(",", " ").split()):
        name, _, limit = part.partition(":")
        try:
            value = float(limit)
        except ValueError:
            value = math.nan
        if name not in SLO_NAMES or not value > 0:
            raise ConfigError(
                f"--goodput has {part!r}; give NAME:MILLISECONDS with a name of {', '.join(SLO_NAMES)} and more than 0."
            )
        slo[SLO_NAMES[name]] = value
    return slo


def meets(record: Record, slo: Mapping[str, float]) -> bool:
    """Whether a request that went well kept every limit. An answer of one token has no TPOT, which keeps any."""
    seen = {"ttft": record.ttft, "tpot": record.tpot or 0.0, "e2e": record.e2e}
    return all(1000 * seen[name] <= limit for name, limit in slo.items())


def summarise(
    records: Sequence[Record], *, slo: Mapping[str, float] | None = None, cost_per_hour: float | None = None
) -> dict[str, Any]:
    """The numbers of one run.

    Requests that failed are counted under `errors` and lengthen the run; they are in nothing else.
    """
    good = [record for record in records if not record.error]
    duration = max(record.end for record in records) - min(record.sent for record in records) if records else 0.0
    output = sum(record.output_tokens for record in good)
    known = [record.prompt_tokens for record in good if record.prompt_tokens is not None]
    result: dict[str, Any] = {
        "requests": len(records),
        "completed": len(good),
        "errors": dict(Counter(record.error for record in records if record.error)),
        "error_examples": _examples(records),
        "short": sum(record.output_tokens < record.asked for record in good),
        "uncounted": sum(not record.counted for record in good),
        "duration_s": duration,
        "prompt_tokens": _range(known),
        "output_tokens": _range([record.output_tokens for record in good]),
        "requests_per_s": _rate(len(good), duration),
        "output_tok_s": _rate(output, duration),
        "total_tok_s": _rate(output + sum(known), duration) if len(known) == len(good) else None,
        "ttft_ms": distribution(record.ttft for record in good),
        "tpot_ms": distribution(tpot for record in good if (tpot := record.tpot) is not None),
        "itl_ms": distribution(gap for record in good for gap in record.itl()),
        "e2e_ms": distribution(record.e2e for record in good),
        "cache_hit_rate": _hit_rate(good),
    }
    if any(record.due for record in records):
        result["late_ms"] = distribution(record.sent - record.due for record in records)
    if slo:
        kept = sum(meets(record, slo) for record in good)
        share = kept / len(records) if records else None
        result["goodput"] = {"slo_ms": dict(slo), "requests_per_s": _rate(kept, duration), "share": share}
    if cost_per_hour is not None:
        rate = result["output_tok_s"]
        result["cost_per_million_output_tokens"] = cost_per_hour / (rate * 3600) * 1e6 if rate else None
    return result


def _rate(count: int, duration: float) -> float | None:
    return count / duration if duration > 0 else None


def _range(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"total": sum(values), "mean": sum(values) / len(values), "min": min(values), "max": max(values)}


def _hit_rate(good: Sequence[Record]) -> float | None:
    """Prompt tokens that the server took from its prefix cache, of all; None when it does not say."""
    told = [record for record in good if record.cached_tokens is not None and record.prompt_tokens]
    total = sum(record.prompt_tokens or 0 for record in told)
    return sum(record.cached_tokens or 0 for record in told) / total if total else None


def _examples(records: Sequence[Record]) -> dict[str, str]:
    """The first message of each kind of error."""
    examples: dict[str, str] = {}
    for record in records:
        if record.error:
            examples.setdefault(record.error, record.detail)
    return examples
