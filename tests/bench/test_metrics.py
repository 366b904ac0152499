"""The formulas, on timelines made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.bench.metrics import Record, meets, parse_slo, percentile, summarise
from befit.errors import ConfigError


def record(sent: float, arrivals: list[float], output: int, **changes: object) -> Record:
    """A request whose events with output came at `arrivals`; the last of them ended it."""
    values = {"asked": output, "sent": sent, "tokens": arrivals, "last": arrivals[-1], "end": arrivals[-1]}
    return Record(**{**values, "prompt_tokens": 10, "output_tokens": output, **changes})  # type: ignore[arg-type]


def test_one_request() -> None:
    one = record(1.0, [1.5, 1.7, 2.0], 4)
    assert one.ttft == 0.5
    assert one.e2e == 1.0
    assert one.tpot == pytest.approx((1.0 - 0.5) / 3)  # four tokens in three events: three gaps between tokens
    assert one.itl() == pytest.approx([0.2, 0.3])  # and two between events


def test_the_end_of_a_request_is_its_last_choice_not_its_last_byte() -> None:
    one = record(0.0, [1.0, 2.0], 3, last=2.5, end=9.0)
    assert one.e2e == 2.5
    assert one.tpot == pytest.approx(1.5 / 2)


def test_an_answer_of_one_token_has_no_tpot_and_no_itl() -> None:
    one = record(0.0, [1.0], 1)
    assert one.tpot is None
    assert one.itl() == []


def test_an_answer_without_text_has_its_first_token_where_its_choice_was() -> None:
    assert record(0.0, [1.0], 2, tokens=[], last=3.0).ttft == 3.0


def test_a_run() -> None:
    records = [
        record(0.0, [1.0, 2.0], 2),
        record(1.0, [4.0, 5.0, 6.0], 3, prompt_tokens=30, asked=8),
        record(2.0, [3.0], 1, error="connection_lost", detail="it broke", end=8.0),
    ]
    numbers = summarise(records, cost_per_hour=3.6)
    assert numbers["requests"] == 3
    assert numbers["completed"] == 2
    assert numbers["errors"] == {"connection_lost": 1}
    assert numbers["error_examples"] == {"connection_lost": "it broke"}
    assert numbers["duration_s"] == 8.0  # a failed request is part of the time, and of nothing else
    assert numbers["output_tok_s"] == pytest.approx(5 / 8)
    assert numbers["total_tok_s"] == pytest.approx(45 / 8)
    assert numbers["requests_per_s"] == pytest.approx(2 / 8)
    assert numbers["ttft_ms"]["mean"] == pytest.approx(2000)
    assert numbers["tpot_ms"]["p50"] == pytest.approx(1000)
    assert numbers["itl_ms"]["max"] == pytest.approx(1000)
    assert numbers["e2e_ms"]["max"] == pytest.approx(5000)
    assert numbers["prompt_tokens"] == {"total": 40, "mean": 20.0, "min": 10, "max": 30}
    assert numbers["short"] == 1
    assert numbers["cost_per_million_output_tokens"] == pytest.approx(3.6 / 3600 / (5 / 8) * 1e6)


def test_a_run_in_which_all_failed_has_counts_and_no_numbers() -> None:
    numbers = summarise([record(0.0, [1.0], 1, error="http_503", detail="full")], cost_per_hour=1.0)
    assert numbers["errors"] == {"http_503": 1}
    assert numbers["ttft_ms"]["p50"] is None
    assert numbers["output_tok_s"] == 0.0
    assert numbers["cost_per_million_output_tokens"] is None
    assert summarise([])["requests_per_s"] is None


def test_total_tokens_are_unknown_when_a_prompt_was_not_counted() -> None:
    assert summarise([record(0.0, [1.0], 1), record(0.0, [1.0], 1, prompt_tokens=None)])["total_tok_s"] is None


def test_cache_hits_are_a_share_of_the_prompts_that_tell() -> None:
    told = record(0.0, [1.0], 1, prompt_tokens=100, cached_tokens=25)
    assert summarise([told, record(0.0, [1.0], 1)])["cache_hit_rate"] == 0.25
    assert summarise([record(0.0, [1.0], 1)])["cache_hit_rate"] is None


def test_goodput_counts_requests_that_keep_every_limit() -> None:
    quick, slow = record(0.0, [0.1, 0.2], 2), record(0.0, [0.1, 0.9], 2)
    failed = record(0.0, [0.1], 1, error="timeout", end=1.0)
    slo = parse_slo(["ttft:200,tpot:300", "e2e:5000"])
    assert slo == {"ttft": 200.0, "tpot": 300.0, "e2e": 5000.0}
    goodput = summarise([quick, slow, failed], slo=slo)["goodput"]
    assert goodput == {"slo_ms": slo, "requests_per_s": 1.0, "share": pytest.approx(1 / 3)}
    assert meets(record(0.0, [0.1], 1), {"tpot": 0.001})  # no TPOT, nothing broken


def test_limits_are_read_as_vllm_writes_them() -> None:
    assert parse_slo(["ttft:100 e2el:2000"]) == {"ttft": 100.0, "e2e": 2000.0}
    assert parse_slo([]) == {}


@pytest.mark.parametrize("text", ["ttft", "ttft:", "ttft:fast", "ttft:0", "ttft:-1", "itl:30", "ttft:nan"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME:MILLISECONDS"):
        parse_slo([text])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)


def test_percentiles_of_nothing() -> None:
    assert math.isnan(percentile([], 50))
