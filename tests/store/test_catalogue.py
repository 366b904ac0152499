"""The catalogue says what is true of the models, and names mean what they say."""

import re

import pytest

from befit.models.program import Program
from befit.plan import source
from befit.store import catalogue, choice, names

from .conftest import CONTENT, REPOSITORY, tiny_entry

# Bytes of a block and the columns it takes, of the types in the mixtures below (ggml, `ggml-common.h`).
BLOCKS = {"q4_0": (32, 18), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34)}
BLOCKS |= {"q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210)}
NARROW = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


def file_size(program: Program, shapes: dict[str, tuple[int, ...]], quantisation: str) -> int:
    """Bytes of a GGUF file as llama.cpp mixes its types (`llama-quant.cpp`)."""
    base = quantisation.removesuffix("_m") if "_k" in quantisation else quantisation
    layers = program.n_layers

    def kind(name: str) -> str:
        if name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in shapes):
            return "q8_0" if quantisation == "q8_0" else "q6_k"
        layer = re.match(r"blk\.(\d+)\.(attn_v|ffn_down)", name)
        if quantisation.endswith("_m") and layer:
            at = int(layer[1])
            if at < layers // 8 or at >= 7 * layers // 8 or (at - layers // 8) % 3 == 2:
                return "q6_k"
        return base

    def nbytes(name: str, shape: tuple[int, ...]) -> int:
        count = 1
        for each in shape:
            count *= each
        if len(shape) == 1:
            return 4 * count
        chosen = kind(name)
        if shape[-1] % BLOCKS[chosen][0]:
            chosen = NARROW[chosen]
        columns, size = BLOCKS[chosen]
        return count // columns * size

    return sum(nbytes(name, shape) for name, shape in shapes.items())


@pytest.mark.parametrize("name", catalogue.models())
def test_what_it_says_of_a_model(name: str) -> None:
    model = catalogue.models()[name]
    planned = source.from_known(name)
    assert (model.parameters, model.context) == (planned.parameters, planned.program.max_context)
    assert names.require(name).tag is not None
    assert model.default in model.sizes
    assert model.license
    for repository in (model.repository, model.gguf):
        assert re.fullmatch(r"[\w-]+/[\w.-]+", repository)
    for quantisation, size in model.sizes.items():
        assert choice.is_quantisation(quantisation)
        if quantisation != "q4_1":
            assert size == pytest.approx(
                file_size(planned.program, dict(planned.shapes), quantisation), rel=0.003, abs=1e6
            )
    for quantisation, wheel in model.wheels.items():
        assert quantisation in model.sizes
        assert wheel.size == pytest.approx(model.sizes[quantisation], rel=0.01)
        assert len(bytes.fromhex(wheel.sha256 or "")) == 32
        assert "==" in wheel.requirement


def test_the_default_model_comes_without_a_hub() -> None:
    named = catalogue.find(catalogue.DEFAULT_MODEL)
    assert named is not None
    assert named.wheel is not None


@pytest.mark.parametrize(
    ("text", "name", "quantisation"),
    [
        ("qwen2.5-coder:7b", "qwen2.5-coder:7b", "q4_k_m"),
        ("Qwen2.5-Coder:7B-Q8_0", "qwen2.5-coder:7b-q8_0", "q8_0"),
        ("qwen2.5-coder:7b-q4_k_m", "qwen2.5-coder:7b", "q4_k_m"),
        ("qwen3-coder:30b-a3b", "qwen3-coder:30b-a3b", "q4_k_m"),
        ("qwen3-coder:30b-a3b-iq4_xs", "qwen3-coder:30b-a3b-iq4_xs", "iq4_xs"),
        ("codestral", "codestral:22b", "q4_k_m"),
        ("smollm2:135m", "smollm2:135m", "q4_1"),
        ("smollm2:135m-f16", "smollm2:135m-f16", "f16"),
    ],
)
def test_a_name_means_a_model_and_a_quantisation(text: str, name: str, quantisation: str) -> None:
    named = catalogue.find(text)
    assert named is not None
    assert (named.name, named.quantisation) == (name, quantisation)
    assert named.repository.file == quantisation
    assert catalogue.find(named.name) == named


@pytest.mark.parametrize("text", ["smollm2", "qwen2.5-coder:8b", "qwen2.5-coder:7b-chat", "x", "a b", "hf:a/b"])
def test_what_names_nothing(text: str) -> None:
    assert catalogue.find(text) is None


def test_an_unknown_name_is_answered_with_its_family_or_close_ones() -> None:
    assert "Did you mean smollm2:135m" in catalogue.not_found("smolm2:135m").message
    assert (
        "Did you mean starcoder2:15b or starcoder2:3b or starcoder2:7b?" in catalogue.not_found("starcoder2:1b").message
    )
    assert "Stored here: other:1b." in catalogue.not_found("x", ["other:1b"]).message


def test_search_finds_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {model.name for model in catalogue.search(["qwen", "tools", "apache"])} == {
        *(f"qwen2.5-coder:{size}" for size in ("0.5b", "1.5b", "7b", "14b", "32b")),
        "qwen3-coder:30b-a3b",
    }
    assert catalogue.search(["no-such-model"]) == []
    monkeypatch.setitem(catalogue.models(), "tiny:1m", tiny_entry())
    assert [model.name for model in catalogue.search([REPOSITORY.upper()])] == ["tiny:1m"]
    assert catalogue.search(["megabyte"])[0].sizes["q4_k_m"] == len(CONTENT)
