"""Prometheus metrics: counters and histograms kept by the engine's callbacks, gauges read when they are asked for.

The engine calls back once a step on its own thread, so counting must be cheap: plain integers and lists here, and
prometheus-client only to write them out (imported at the first scrape, which keeps it out of the start).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from befit.engine.outputs import FinishReason

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from befit.engine.observe import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
_WHOLE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
_STEP = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Histogram:
    """Counts of seconds by bucket; `bounds` are inclusive upper limits, and one more bucket takes the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper limit, durations up to it), as Prometheus wants them."""
        limits = [*(str(bound) for bound in self.bounds), "+Inf"]
        return list(zip(limits, accumulate(self.counts), strict=True))


class Metrics:
    """An `EngineObserver` whose numbers `/metrics` shows. `stats` gives the state of the engine at a scrape."""

    def __init__(self, stats: Callable[[], EngineStats], model: str) -> None:
        self._stats = stats
        self._model = model
        self._finished: dict[str, int] = dict.fromkeys(("stop", "length", "abort", "error"), 0)
        self.first_token_seconds = Histogram(_FIRST_TOKEN)
        self.per_token_seconds = Histogram(_PER_TOKEN)
        self.whole_seconds = Histogram(_WHOLE)
        self.step_seconds = Histogram(_STEP)
        self._step_tokens = 0

    def request_arrived(self, prompt_tokens: int) -> None:
        """Part of `EngineObserver`; arrivals are counted when they end."""

    def first_token(self, seconds: float) -> None:
        """Time to first token."""
        self.first_token_seconds.observe(seconds)

    def tokens(self, gaps: Sequence[float]) -> None:
        """Time from one step with tokens of a sequence to the next."""
        for gap in gaps:
            self.per_token_seconds.observe(gap)

    def finished(
        self, reason: FinishReason, prompt_tokens: int, output_tokens: int, cached_tokens: int, seconds: float
    ) -> None:
        """A request ended."""
        self._finished[reason] += 1
        self.whole_seconds.observe(seconds)

    def step(self, tokens: int, seconds: float) -> None:
        """A step was computed."""
        self.step_seconds.observe(seconds)
        self._step_tokens += tokens

    def preempted(self) -> None:
        """Part of `EngineObserver`; preemptions are counted by the engine."""

    def collect(self) -> Iterator[Metric]:
        """What a prometheus-client registry's collect() gives."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        stats = self._stats()
        label = [self._model]

        def gauge(name: str, text: str, value: float) -> Metric:
            family = GaugeMetricFamily(f"befit:{name}", text, labels=["model_name"])
            family.add_metric(label, value)
            return family

        def counter(name: str, text: str, value: float) -> Metric:
            family = CounterMetricFamily(f"befit:{name}", text, labels=["model_name"])
            family.add_metric(label, value)
            return family

        def histogram(name: str, text: str, values: Histogram) -> Metric:
            family = HistogramMetricFamily(f"befit:{name}", text, labels=["model_name"])
            family.add_metric(label, values.buckets(), values.total)
            return family

        yield gauge("num_requests_running", "Sequences that steps compute now.", stats.running)
        yield gauge("num_requests_waiting", "Sequences that wait to be computed.", stats.waiting)
        yield gauge("kv_cache_usage_ratio", "Part of the KV pool that running sequences hold, 0 to 1.", stats.kv_usage)
        yield counter("prompt_tokens", "Prompt tokens of the requests admitted.", stats.prompt_tokens_total)
        yield counter("generation_tokens", "Tokens generated.", stats.output_tokens_total)
        yield counter(
            "prefix_cache_queries_tokens", "Prompt tokens looked up in the prefix cache.", stats.prompt_tokens_total
        )
        yield counter("prefix_cache_hits_tokens", "Prompt tokens found in the prefix cache.", stats.cached_tokens_total)
        yield counter("preemptions", "Sequences that gave their pages back to be recomputed.", stats.preemptions_total)
        yield counter("structures_closed", "Outputs whose structure was completed at their limit.", stats.closed_total)
        yield counter("repetition_stops", "Outputs ended because they repeated themselves.", stats.loops_total)
        yield counter("steps", "Steps computed.", stats.steps_total)
        yield counter("step_tokens", "Tokens computed in steps, prompts and outputs together.", self._step_tokens)
        if stats.cpu_seconds is not None:
            yield counter(
                "server_cpu_seconds",
                "CPU time of the event loop and of the engine's thread outside the steps of the backend.",
                stats.cpu_seconds,
            )
        yield counter("spec_decode_num_drafts", "Times that a step verified drafts of a sequence.", stats.drafts_total)
        yield counter("spec_decode_num_draft_tokens", "Tokens drafted.", stats.drafted_tokens_total)
        yield counter("spec_decode_num_accepted_tokens", "Drafted tokens that were right.", stats.accepted_tokens_total)
        yield gauge(
            "spec_decode_mean_acceptance_length",
            "Tokens that a sequence got from a step that verified drafts of it, on average.",
            stats.mean_acceptance_length,
        )
        finished = CounterMetricFamily(
            "befit:request_success", "Requests ended, by reason.", labels=["model_name", "finished_reason"]
        )
        for reason, count in self._finished.items():
            finished.add_metric([self._model, reason], count)
        yield finished
        yield histogram("time_to_first_token_seconds", "Arrival to first token.", self.first_token_seconds)
        yield histogram(
            "time_per_output_token_seconds",
            "From one step with tokens of a sequence to the next.",
            self.per_token_seconds,
        )
        yield histogram("e2e_request_latency_seconds", "Arrival to end of the request.", self.whole_seconds)
        yield histogram("step_seconds", "One step of the backend.", self.step_seconds)


def render(all_metrics: Iterable[Metrics]) -> bytes:
    """The exposition text of all models, each metric once with a sample a model. Nothing global is read or changed."""
    from prometheus_client.exposition import generate_latest

    families: dict[str, Metric] = {}
    for metrics in all_metrics:
        for family in metrics.collect():
            if family.name in families:
                families[family.name].samples += family.samples
            else:
                families[family.name] = family
    return generate_latest(_Collected(families.values()))


@dataclass(frozen=True, slots=True)
class _Collected:
    """What a prometheus-client registry is asked for."""

    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        return self.families
