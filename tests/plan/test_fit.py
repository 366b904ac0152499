"""Facts that are known of models and machines, and the arithmetic that gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.plan import fit, source
from befit.plan.fit import Plan, Wish
from befit.plan.machine import Machine, named_card
from befit.plan.memory import Model
from befit.store import catalogue

MakeMachine = Callable[..., Machine]


def model(name: str, bits: float | None = None) -> Model:
    described = source.from_known(name)
    return described if bits is None else described.requantised(bits, f"{bits} bits")


def plan(name: str, card: str, bits: float | None = None, ctx: int | None = None, seqs: int = 1) -> Plan:
    subject, machine = model(name, bits), named_card(card)
    wish = Wish(ctx=ctx or 8192, seqs=seqs)
    return fit.make(subject, machine, wish if ctx else fit.choose_ctx(subject, machine, wish))


# -- known facts ------------------------------------------------------------------------------------------------------


def test_deepseek_coder_at_16_bits_does_not_fit_8_gb() -> None:
    found = plan("deepseek-coder:6.7b", "RTX 4060")
    assert not found.fits
    assert found.budget.weights == pytest.approx(13.4e9, rel=0.01)
    assert found.budget.available == 8 << 30


def test_deepseek_coder_at_4_bits_fits_8_gb_with_room_for_context() -> None:
    found = plan("deepseek-coder:6.7b", "RTX 4060", bits=4.85)
    assert found.fits
    assert found.budget.weights == pytest.approx(4.08e9, rel=0.01)  # its Q4_K_M file
    assert 4096 <= found.wish.ctx <= found.largest_ctx


def test_codellama_at_8_bits_fits_8_gb_with_a_short_context_only() -> None:
    found = plan("codellama:7b", "RTX 4060", bits=8.5)
    assert not found.fits
    assert found.alternatives[0].kind == "shorter context"
    assert 1024 <= found.largest_ctx < 2048
    assert plan("codellama:7b", "RTX 4060", bits=8.5, ctx=1024).fits


def test_34b_at_16_bits_and_32_contexts_of_4096_is_more_than_one_80_gb_card() -> None:
    found = plan("codellama:34b", "A100-80G", ctx=4096, seqs=32)
    assert found.budget.weights == 2 * 33_743_970_304
    assert (
        found.budget.kv == 32 * 4096 * 48 * 2 * 8 * 128 * 2
    )  # sequences, tokens, layers, K and V, heads, components, bytes
    assert not found.fits
    assert plan("codellama:34b", "A100-80G", ctx=4096, seqs=8).fits
    assert [each.kind for each in found.alternatives][:3] == ["fewer sequences", "int8 KV cache", "shorter context"]


def test_decoding_is_bound_by_bandwidth() -> None:
    found = plan("codellama:7b", "RTX 4060", bits=4.85)
    assert found.decode_empty == pytest.approx(272e9 / ((6_738_546_688 - 32016 * 4096) * 4.85 / 8), rel=0.001)
    assert found.decode_full is not None
    assert found.decode_full < found.decode_empty


# -- what would fit ---------------------------------------------------------------------------------------------------


def test_alternatives_fit_and_cost_least_first(machine: MakeMachine) -> None:
    host = machine(64 << 30, kind="cpu", bandwidth=50e9, overhead=120 * 10**6)
    found = fit.make(model("qwen2.5-coder:14b"), machine(24 << 30), Wish(ctx=8192), lambda: host)
    assert not found.fits
    kinds = list(dict.fromkeys(each.kind for each in found.alternatives))
    assert kinds == ["quantisation", "layers on the CPU", "smaller model"]
    assert next(each.what for each in found.alternatives if each.kind == "smaller model") == "qwen2.5-coder:7b, 16-bit"
    for each in found.alternatives:
        assert each.total <= 24 << 30
        assert each.ctx >= 8192


def test_layers_on_the_cpu_slow_a_card_down(machine: MakeMachine) -> None:
    host = machine(64 << 30, kind="cpu", bandwidth=50e9, overhead=120 * 10**6)
    found = fit.make(model("deepseek-coder:6.7b"), machine(), Wish(ctx=4096), lambda: host)
    split = next(each for each in found.alternatives if each.kind == "layers on the CPU")
    assert split.decode is not None
    assert 50e9 / 13.5e9 < split.decode < 272e9 / 13.5e9
    assert split.what.endswith("GB of this machine's memory")
    poor = replace(host, available=1 << 30)
    found = fit.make(model("deepseek-coder:6.7b"), machine(), Wish(ctx=4096), lambda: poor)
    assert "layers on the CPU" not in {each.kind for each in found.alternatives}


def test_nothing_fits_a_calculator(machine: MakeMachine) -> None:
    assert fit.make(model("qwen2.5-coder:0.5b"), machine(100 << 20), Wish(ctx=1024)).alternatives == ()


def test_experts_are_all_kept_and_few_are_read() -> None:
    subject = model("qwen3-coder:30b-a3b")
    assert subject.weight_bytes == 2 * subject.parameters == pytest.approx(61e9, rel=0.01)
    assert subject.bytes_per_token == pytest.approx(6e9, rel=0.05)


@given(
    st.sampled_from(list(catalogue.models())),
    st.integers(1, 200),
    st.sampled_from([None, 8.5, 4.85]),
    st.integers(1, 64),
)
def test_what_a_plan_says_fits_does(name: str, gigabytes: int, bits: float | None, seqs: int) -> None:
    subject = model(name, bits)
    machine = replace(named_card("A100-80G"), available=gigabytes << 30)
    wish = fit.choose_ctx(subject, machine, Wish(ctx=1, seqs=seqs))
    found = fit.make(subject, machine, wish)
    assert found.fits == (found.budget.total <= machine.available)
    longest = found.largest_ctx
    if longest:
        assert fit.make(subject, machine, Wish(ctx=longest)).fits
    if longest < subject.program.max_context:
        assert not fit.make(subject, machine, Wish(ctx=longest + 1)).fits
    if found.most_seqs:
        assert fit.make(subject, machine, replace(wish, seqs=1)).fits
    for each in found.alternatives:
        assert each.total <= machine.available
