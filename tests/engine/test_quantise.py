"""A dense model rounded while it is loaded: when, to what, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from befit.config import EngineConfig, EngineOptions
from befit.engine.load import load_model, settle
from befit.engine.quantise import choose
from befit.errors import ConfigError, DoesNotFit
from befit.plan.machine import RESERVE_LEAST
from befit.prepared.write import build
from befit.weights.tensor import QuantTensor, Weight
from support.files import tiny_file
from support.tiny import tiny_model

SMALL: dict[str, Any] = {"ctx": 64, "kv_tokens": 128, "threads": 2}
MODEL = tiny_model("llama", storage="f16", hidden=256, ffn=512)
DENSE = sum(tensor.nbytes for tensor in MODEL.tensors.values())


def settling(budget: int, *, shorter: bool = False) -> Any:
    """Settings within a budget of weights; with `shorter`, a context that shrinks where it would not fit."""

    def settle(weights: Mapping[str, Weight]) -> EngineConfig:
        size = sum(weight.nbytes for weight in weights.values())
        if size > budget and not shorter:
            raise DoesNotFit(f"{size} bytes")
        ctx = 64 if size <= budget else 32
        return EngineConfig(
            ctx=ctx,
            max_seqs=1,
            token_budget=64,
            block_size=16,
            n_blocks=4,
            threads=1,
            backend="native",
            kv_dtype="f16",
            prefix_cache=True,
            max_queue=1,
            speculation="off",
            draft=None,
        )

    return settle


def kind(quant: str, settle: Any) -> tuple[str, str]:
    choice = choose(EngineOptions(quant=quant), MODEL.program, MODEL.tensors, lambda tensor: None, settle)
    weight = choice.weights["blk.0.attn_q.weight"]
    return weight.format.name if isinstance(weight, QuantTensor) else "dense", choice.why


@pytest.mark.parametrize("shorter", [False, True])
def test_auto_takes_the_most_bits_that_fit_without_a_shorter_context(shorter: bool) -> None:
    assert kind("auto", settling(DENSE, shorter=shorter))[0] == "dense"
    name, why = kind("auto", settling(int(DENSE * 0.6), shorter=shorter))
    assert name == "q8_0"
    assert why.startswith("weights rounded to w8, 8 bits each")
    name, why = kind("auto", settling(int(DENSE * 0.45), shorter=shorter))
    assert name == "q4_k"
    assert "those of the model itself and of w8 do not" in why
    assert ("leave room for the context" if shorter else "fit the memory") in why


def test_auto_is_refused_like_any_model_where_nothing_fits() -> None:
    with pytest.raises(DoesNotFit):
        kind("auto", settling(1000))


@pytest.mark.parametrize(("quant", "expected"), [("none", "dense"), ("w8", "q8_0"), ("w4", "q4_k")])
def test_a_wish_is_met_whatever_would_fit(quant: str, expected: str) -> None:
    assert kind(quant, settling(0))[0] == expected


def test_an_unknown_wish_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose auto, none, w8, w4"):
        kind("w2", settling(0))


def test_a_model_that_is_rounded_on_loading_answers_like_the_file(tmp_path: Path) -> None:
    from befit import LLM, SamplingParams
    from befit.quantize.convert import convert

    source = tiny_file(tmp_path / "x.gguf", storage="f16", hidden=256, ffn=512)
    convert(source, tmp_path / "q.gguf", to="w4", name="x", threads=1, measured=False)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    outputs = []
    for path, quant in ((source, "w4"), (tmp_path / "q.gguf", "auto")):
        with LLM(str(path), quant=quant, **SMALL) as llm:
            [output] = llm.generate("hello", params, use_tqdm=False)
            outputs.append(output.outputs[0].token_ids)
    assert outputs[0] == outputs[1]


def test_what_was_chosen_is_printed_with_the_settings(tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "x.gguf", storage="f16", hidden=256)
    for quant, expected in (("auto", "weights as they are: their 0.00 GB fit"), ("w8", "weights rounded to w8")):
        lines: list[str] = []
        load_model(str(source), EngineOptions(quant=quant, **SMALL), report=lines.append).close()
        assert f"\nnote         {expected}" in lines[0]


def test_a_quantised_model_stays_as_it_is(tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "x.gguf", storage="q8_0")
    build(source, tmp_path / "built", name="x", threads=1)
    for path in (source, tmp_path / "built"):
        lines: list[str] = []
        load_model(str(path), EngineOptions(**SMALL), report=lines.append).close()
        assert "\nnote" not in lines[0]
        with pytest.raises(ConfigError, match="quantised or packed already"):
            load_model(str(path), EngineOptions(quant="w4", **SMALL))


def test_auto_follows_the_memory_that_befit_may_take(tmp_path: Path) -> None:
    """What `settle` says each choice takes is what decides."""
    source = tiny_file(tmp_path / "x.gguf", storage="f16", hidden=512, ffn=2048, n_layers=4, head_dim=64)
    fixed: dict[str, Any] = {**SMALL, "max_seqs": 1, "token_budget": 64}
    needed = {}
    for quant in ("none", "w8", "w4"):
        budget = settle(str(source), EngineOptions(quant=quant, **fixed))[1]
        needed[quant] = budget.total - budget.reserve + RESERVE_LEAST
    assert needed["none"] > needed["w8"] + 5 * 10**6 > needed["w4"] + 10**7
    for quant, stored in (("none", "F16"), ("w8", "Q8_0"), ("w4", "Q4_K")):
        facts = settle(str(source), EngineOptions(memory=needed[quant] + 10**6, **fixed))[2]
        assert facts.formats["blk.0.attn_q.weight"].upper() == stored
    with pytest.raises(DoesNotFit):
        settle(str(source), EngineOptions(memory=needed["w4"] - 10**6, **fixed))
