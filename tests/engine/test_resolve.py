"""Auto settings: what they become, and which wishes are refused with which numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from befit.config import EngineConfig, EngineOptions
from befit.engine.resolve import resolve, table
from befit.errors import ConfigError, DoesNotFit
from befit.models.program import Attention, Program

# 2 (k and v) * 8 heads * 64 * 2 bytes * 10 layers = 20,480 bytes of f16 KV a token
LAYERS = tuple(Attention("o", "q", "k", "v", i, n_heads=8, n_kv_heads=8, head_dim=64, scale=1.0) for i in range(10))
PROGRAM = Program("test", 1000, 512, 10, 32768, LAYERS)
GB = 10**9


def config(tmp_path: Path, available: int = 16 * GB, weights: int = GB, **wishes: Any) -> EngineConfig:
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {available // 1024} kB\n")
    return resolve(EngineOptions(**wishes), PROGRAM, weight_bytes=weights, root=tmp_path)


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
        config(tmp_path, available=int(1.5 * GB), ctx=32768)
    message = caught.value.message
    for part in ("1.00 GB", "671 MB", "20480 bytes a token", "150 MB", "1.50 GB", "ctx to at most 17088"):
        assert part in message
    assert config(tmp_path, available=int(1.5 * GB), ctx=17088).n_blocks == 1068


def test_weights_that_do_not_fit_call_for_a_smaller_model(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="choose a smaller model"):
        config(tmp_path, available=GB)


def test_more_context_than_the_model_has_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ctx is 40000 but the model allows 32768"):
        config(tmp_path, ctx=40000)


def test_kv_tokens_overrides_the_share(tmp_path: Path) -> None:
    assert config(tmp_path, kv_tokens=10000).n_blocks == 625
    small = config(tmp_path, kv_tokens=100)
    assert (small.ctx, small.n_blocks, small.max_seqs) == (100, 7, 7)
    with pytest.raises(ConfigError, match="ctx is 4096 but kv_tokens gives the KV cache 100 tokens"):
        config(tmp_path, kv_tokens=100, ctx=4096)
    with pytest.raises(DoesNotFit, match="kv_tokens to at most"):
        config(tmp_path, kv_tokens=10**7)


def test_a_draft_model_has_its_own_keys_and_values_in_every_page(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {16 * GB // 1024} kB\n")
    options = EngineOptions(draft="small")
    small = Program("test", 1000, 512, 5, 32768, LAYERS[:5])
    got = resolve(options, PROGRAM, weight_bytes=GB, draft=small, root=tmp_path)
    assert got.n_blocks == pytest.approx(config(tmp_path).n_blocks * 2 / 3, abs=1)
    assert "prompt lookup and draft model small" in table(got, PROGRAM, name="big", weight_bytes=GB, draft=small)


def test_8_bit_keys_and_values_take_half_the_memory_and_their_scales(tmp_path: Path) -> None:
    got, half = config(tmp_path), config(tmp_path, kv_dtype="int8")
    assert (got.kv_dtype, half.kv_dtype) == ("f16", "int8")
    assert half.n_blocks == pytest.approx(got.n_blocks * 128 / (64 + 4), abs=2)
    assert ", int8, " in table(half, PROGRAM, name="tiny", weight_bytes=GB)


def test_the_reference_backend_keeps_float32(tmp_path: Path) -> None:
    assert config(tmp_path, backend="reference").n_blocks == pytest.approx(config(tmp_path).n_blocks / 2, abs=1)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"max_seqs": 0}, "max_seqs is 0; it must be at least 1"),
        ({"backend": "abacus"}, "choose auto, native or reference"),
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
    text = table(config(tmp_path, threads=3), PROGRAM, name="tiny", weight_bytes=GB)
    assert len(text.splitlines()) == 6
    for part in ("tiny", "8192 tokens", "32768", "prefix cache on", "64 sequences", "512 tokens a step", "3 threads"):
        assert part in text
