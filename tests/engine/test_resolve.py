"""Auto settings: what they become, and which wishes are refused with which numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from befit.backends.cuda import device
from befit.config import EngineConfig, EngineOptions
from befit.engine.resolve import resolve, table
from befit.errors import ConfigError, DoesNotFit
from befit.models.program import Attention, Program
from befit.plan import nvml
from befit.plan.fit import Budget
from befit.plan.memory import Model

# 2 (k and v) * 8 heads * 64 * 2 bytes * 10 layers = 20,480 bytes of f16 KV a token
LAYERS = tuple(Attention("o", "q", "k", "v", i, n_heads=8, n_kv_heads=8, head_dim=64, scale=1.0) for i in range(10))
PROGRAM = Program("test", 1000, 512, 10, 32768, LAYERS)
GB = 10**9


def model(weights: int = GB, program: Program = PROGRAM, draft: Model | None = None) -> Model:
    sizes = {"mlp": weights}
    return Model(
        name="tiny",
        origin="",
        family="test",
        catalogue_family=None,
        program=program,
        shapes={},
        counts={"mlp": weights // 2},
        weights=sizes,
        stored="F16",
        draft=draft,
    )


def resolved(
    tmp_path: Path, available: int = 16 * GB, subject: Model | None = None, **wishes: Any
) -> tuple[EngineConfig, Budget]:
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {available // 1024} kB\n")
    return resolve(EngineOptions(**wishes), subject or model(), root=tmp_path)


def config(tmp_path: Path, available: int = 16 * GB, **wishes: Any) -> EngineConfig:
    return resolved(tmp_path, available, **wishes)[0]


def test_the_defaults(tmp_path: Path) -> None:
    got = config(tmp_path)
    assert (got.ctx, got.max_seqs, got.token_budget, got.block_size, got.backend) == (8192, 64, 512, 16, "native")
    kv_bytes = got.n_blocks * 16 * 20480
    assert 3.9 * GB < kv_bytes <= 4 * GB


def test_a_small_model_gets_no_more_kv_than_its_sequences_can_use(tmp_path: Path) -> None:
    assert config(tmp_path, ctx=1000, max_seqs=3).n_blocks == 3 * 63


def test_one_context_may_take_more_than_the_share(tmp_path: Path) -> None:
    got = config(tmp_path, available=2 * GB, ctx=30000)
    assert got.n_blocks == 1875
    assert got.n_blocks * 16 * 20480 > 0.25 * 2 * GB


def test_what_does_not_fit_is_refused_with_the_sum_and_what_would_fit(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit) as caught:
        config(tmp_path, available=int(1.6 * GB), ctx=32768)
    message = caught.value.message
    for part in ("weights 1.00 GB", "671 MB", "20480 bytes", "reserve 100 MB", "1.60 GB", "(--kv-dtype int8)"):
        assert part in message
    [option] = re.findall(r"\(--ctx (\d+)\)", message)
    with pytest.raises(DoesNotFit):
        config(tmp_path, available=int(1.6 * GB), ctx=int(option) + 2048)


@pytest.mark.parametrize("wishes", [{"ctx": 32768}, {"kv_tokens": 32768}, {"ctx": 20000, "max_seqs": 500}])
def test_what_is_offered_instead_does_fit(tmp_path: Path, wishes: dict[str, Any]) -> None:
    with pytest.raises(DoesNotFit) as caught:
        config(tmp_path, available=int(1.45 * GB), **wishes)
    offers = re.findall(r"\((--[^)]*)\)", caught.value.message)
    assert offers
    for offer in offers:
        words = offer.split()
        changes = {
            name.removeprefix("--").replace("-", "_"): int(value) if value.isdecimal() else value
            for name, value in zip(words[::2], words[1::2], strict=True)
        }
        config(tmp_path, available=int(1.45 * GB), **{**wishes, **changes})


def test_weights_that_do_not_fit_call_for_smaller_ones(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=r"quantisation: 4-bit \(Q4_K_M\)"):
        config(tmp_path, available=GB)
    with pytest.raises(DoesNotFit, match="take a smaller model"):
        config(tmp_path, available=GB // 4)


def test_where_memory_is_short_there_are_fewer_sequences_then_smaller_steps_then_a_shorter_context(
    tmp_path: Path,
) -> None:
    least = resolved(tmp_path, ctx=8192, max_seqs=1, token_budget=128, kv_tokens=8192)[1].used + 100 * 10**6 + 1023
    got = config(tmp_path, available=least)
    assert (got.ctx, got.max_seqs, got.token_budget) == (8192, 1, 128)
    got = config(tmp_path, available=least + 900_000)
    assert (got.ctx, got.max_seqs, got.token_budget) == (8192, 16, 512)
    got = config(tmp_path, available=int(1.3 * GB))
    assert (got.ctx, got.max_seqs, got.token_budget) == (5120, 1, 128)
    assert config(tmp_path, available=least + 900_000, max_seqs=20).max_seqs == 20


def test_memory_as_given_goes_to_the_cache_as_far_as_it_can_be_used(tmp_path: Path) -> None:
    got, needed = resolved(tmp_path, memory="6GB")
    assert needed.available == 6 * GB
    assert needed.reserve == 6 * GB // 20
    page = 16 * 20480
    assert needed.total <= 6 * GB < needed.total + page
    assert needed.kv == got.n_blocks * page
    assert config(tmp_path, memory="100GB").n_blocks == 64 * 512
    assert config(tmp_path, memory=6 * GB).n_blocks == got.n_blocks
    with pytest.raises(ConfigError, match="no amount of memory"):
        config(tmp_path, memory="much")


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    for name, text in {
        "proc/self/cgroup": "0::/app",
        "sys/fs/cgroup/app/memory.max": str(2 * GB),
        "sys/fs/cgroup/app/memory.current": str(GB // 10),
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    got, needed = resolved(tmp_path, ctx=4096)
    assert needed.available == 19 * GB // 10
    assert needed.total <= needed.available
    assert got.n_blocks == int(0.25 * needed.available) // (16 * 20480)
    with pytest.raises(DoesNotFit, match=r"of 1.90 GB \(memory free now\)"):
        resolved(tmp_path, subject=model(2 * GB))


def test_more_memory_than_the_process_is_ever_granted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text("0::/app")
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {16 * GB // 1024} kB\nMemAvailable: {15 * GB // 1024} kB\n")
    options = EngineOptions(memory="20GB")
    with pytest.raises(ConfigError, match=r"the machine has 16,000,000,000; set --memory to at most 15258 MiB"):
        resolve(options, model(), root=tmp_path)
    group = tmp_path / "sys/fs/cgroup/app"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(str(4 * GB))
    options = EngineOptions(memory="5GB")
    with pytest.raises(ConfigError, match=r"5,000,000,000 bytes and the process's cgroup grants 4,000,000,000"):
        resolve(options, model(), root=tmp_path)
    assert resolve(EngineOptions(memory=4 * GB), model(), root=tmp_path)[1].available == 4 * GB


def test_what_is_printed_is_what_is_counted(tmp_path: Path) -> None:
    got, needed = resolved(tmp_path)
    assert needed.used == needed.weights + needed.kv + needed.activations + needed.overhead
    assert needed.total == needed.used + needed.reserve <= needed.available
    line = next(line for line in table(got, needed, model()).splitlines() if line.startswith("memory"))
    assert "weights 1.00 GB + KV cache 4.00 GB + activations" in line
    assert f"reserve 800 MB = {needed.total / 1e9:.2f} GB, of 16.00 GB" in line


def test_more_context_than_the_model_has_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ctx is 40000 but the model allows 32768"):
        config(tmp_path, ctx=40000)


def test_kv_tokens_overrides_the_share(tmp_path: Path) -> None:
    assert config(tmp_path, kv_tokens=10000).n_blocks == 625
    small = config(tmp_path, kv_tokens=100)
    assert (small.ctx, small.n_blocks, small.max_seqs) == (100, 7, 7)
    with pytest.raises(ConfigError, match="ctx is 4096 but kv_tokens gives the KV cache 100 tokens"):
        config(tmp_path, kv_tokens=100, ctx=4096)
    with pytest.raises(DoesNotFit, match="--kv-tokens"):
        config(tmp_path, kv_tokens=10**7)


def test_a_draft_model_takes_weights_and_a_part_of_every_page(tmp_path: Path) -> None:
    small = model(GB // 10, Program("test", 1000, 512, 5, 32768, LAYERS[:5]))
    pair = model(draft=small)
    got, needed = resolved(tmp_path, subject=pair, draft="small")
    assert needed.weights == GB + GB // 10
    assert got.n_blocks == pytest.approx(config(tmp_path).n_blocks * 2 / 3, abs=1)
    assert "prompt lookup and draft model small" in table(got, needed, pair)
    with pytest.raises(DoesNotFit, match="no draft model: without tiny"):
        resolved(tmp_path, available=int(1.42 * GB), subject=pair, draft="small", ctx=8192)


def test_8_bit_keys_and_values_take_half_the_memory_and_their_scales(tmp_path: Path) -> None:
    got, half = config(tmp_path), config(tmp_path, kv_dtype="int8")
    assert (got.kv_dtype, half.kv_dtype) == ("f16", "int8")
    assert half.n_blocks == pytest.approx(got.n_blocks * 128 / (64 + 4), abs=2)
    assert ", int8; " in table(*resolved(tmp_path, kv_dtype="int8"), model())


def test_the_reference_backend_keeps_float32(tmp_path: Path) -> None:
    got, needed = resolved(tmp_path, backend="reference")
    assert got.n_blocks == pytest.approx(config(tmp_path).n_blocks / 2, abs=1)
    assert needed.weights == 2 * GB


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"max_seqs": 0}, "max_seqs is 0; it must be at least 1"),
        ({"backend": "abacus"}, "choose auto, native, cuda or reference"),
        ({"max_seqs": 100, "token_budget": 50}, "token_budget is 50, too few for max_seqs 100"),
        ({"max_seqs": 8, "kv_tokens": 100}, "at most 7"),
        ({"kv_dtype": "int4"}, "keeps keys and values as f16 or int8"),
        ({"kv_dtype": "int8", "backend": "reference"}, "the reference backend keeps keys and values as f32"),
        ({"speculation": "always"}, "choose auto, lookup, draft or off"),
        ({"speculation": "draft"}, "there is no draft model; name one with draft"),
        ({"speculation": "off", "draft": "small"}, "draft is 'small' but speculation is 'off'"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path: Path, wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **wishes)


def test_many_sequences_raise_the_token_budget(tmp_path: Path) -> None:
    assert config(tmp_path, max_seqs=300, ctx=512).token_budget == 600


def test_the_table_names_every_setting(tmp_path: Path) -> None:
    text = table(*resolved(tmp_path, threads=3), model())
    assert len(text.splitlines()) == 7
    for part in ("tiny", "8192 tokens", "32768", "prefix cache on", "64 sequences", "512 tokens a step", "3 threads"):
        assert part in text


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a card of 16 GB, 12 of them free, that torch sees; without torch and without a card."""
    found = [nvml.DetectedCard("NVIDIA GeForce RTX 4060 Ti", 16 * GB, 12 * GB, 288e9)]
    monkeypatch.setattr(nvml, "detect", lambda: found)
    monkeypatch.setattr(device, "installed", lambda: True)
    monkeypatch.setattr(device, "choose_target", lambda: device.Target("cuda:0", "bf16", (8, 9), True))


@pytest.mark.usefixtures("card")
def test_a_card_is_taken_and_its_free_memory_is_what_counts(tmp_path: Path) -> None:
    got, needed = resolved(tmp_path, available=2 * GB)
    assert (got.backend, got.kv_dtype) == ("cuda", "f16")
    assert (needed.available, needed.reserve) == (12 * GB, 12 * GB // 20)
    # All that is left of a card is the KV cache's, up to what all sequences can use.
    assert needed.fits
    assert needed.available - needed.total < 16 * 20480
    assert "\nbackend      cuda\n" in table(got, needed, model())


@pytest.mark.usefixtures("card")
def test_each_backend_says_what_it_keeps_keys_and_values_as(tmp_path: Path) -> None:
    assert config(tmp_path, kv_dtype="int8").backend == "cuda"
    assert config(tmp_path, backend="native").backend == "native"
    with pytest.raises(ConfigError, match="the native backend keeps keys and values as f16 or int8"):
        config(tmp_path, backend="native", kv_dtype="fp8")
    with pytest.raises(ConfigError, match="the cuda backend keeps keys and values as f16 or int8 or fp8 or f32"):
        config(tmp_path, backend="cuda", kv_dtype="bf16")


@pytest.mark.usefixtures("card")
def test_a_model_that_does_not_fit_the_card_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=r"of 12.00 GB \(memory free now, from the driver\)"):
        resolved(tmp_path, available=64 * GB, subject=model(13 * GB))


def test_a_card_that_only_the_driver_sees_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "detect", lambda: [nvml.DetectedCard("NVIDIA L4", 24 * GB, 24 * GB, 300e9)])
    monkeypatch.setattr(device, "installed", lambda: False)
    assert config(tmp_path).backend == "native"


@pytest.mark.usefixtures("card")
def test_what_does_not_fit_the_card_is_split_if_the_computer_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from befit.engine import resolve as module
    from support.tiny import tiny_model

    tiny = tiny_model("llama", n_layers=3)
    shapes = {name: tensor.shape for name, tensor in tiny.tensors.items()}
    heavy = model(13 * GB, tiny.program)
    subject = replace(heavy, shapes=shapes, formats=dict.fromkeys(shapes, "f32"))
    monkeypatch.setattr(module.fit, "_card_weights", lambda part, element: 5 * GB * part.program.n_layers)
    got, needed = resolved(tmp_path, available=64 * GB, subject=subject)
    assert (got.backend, got.card_layers, got.max_seqs, got.speculation) == ("cuda", 2, 4, "off")
    assert needed.weights == 10 * GB
    assert needed.fits
    shown = table(got, needed, subject)
    assert "layers       2 of 3 on the card, the others on" in shown
    for wish in ({"kv_dtype": "fp8"}, {"speculation": "lookup"}):
        with pytest.raises(DoesNotFit):
            resolved(tmp_path, available=64 * GB, subject=subject, **wish)
    with pytest.raises(DoesNotFit):
        resolve(EngineOptions(), subject, root=tmp_path, split=False)
