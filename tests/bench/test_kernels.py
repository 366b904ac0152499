"""Kernels beside measured limits, and the limits themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from befit.backends.native import _native
from befit.bench.kernels import (
    ALL_FORMATS,
    Limits,
    activation_integers,
    judge,
    measure,
    products_of_bytes,
    tables,
    weight_integers,
)
from befit.bench.random_weights import random_matrix
from befit.cli import main
from befit.weights.blocks import FORMATS


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kind", ALL_FORMATS)
def test_a_kernel_is_timed_and_agrees_with_its_twin(isa: str, kind: str) -> None:
    limits = Limits(1, seconds=0.0)
    run = measure(isa, kind, 3, limits=limits, megabytes=0.1, seconds=0.0)
    judge([run], limits)
    assert run["error"] < 1e-5
    assert run["rows"] % 256 == 0
    assert run["passes"] == (2 if kind in FORMATS else 1)
    assert run["gmac_s"] == pytest.approx(run["rows"] * run["columns"] * 3 / run["time_us"] / 1e3)
    assert run["share"] == pytest.approx(run["limit_us"] / run["time_us"])
    assert run["limit"] in ("memory", "arithmetic")


def test_products_of_bytes_are_counted_as_the_kernels_make_them() -> None:
    assert [products_of_bytes("amx", "q4_k", tokens) for tokens in (4, 5, 512)] == [2, 4, 4]
    assert products_of_bytes("amx", "q8_0", 512) == products_of_bytes("avx512", "q4_k", 512) == 2


def test_the_limit_is_the_larger_of_reading_and_computing() -> None:
    limits = Limits(1, seconds=0.0)
    run = {"isa": _native.isas()[0], "format": "q4_0", "rows": 1000, "columns": 1000, "passes": 1, "time_us": 1.0}
    reads, computes = {**run, "weight_bytes": 1 << 24, "tokens": 1}, {**run, "weight_bytes": 1 << 16, "tokens": 10**6}
    judge([reads, computes], limits)
    assert reads["limit"] == "memory"
    assert computes["limit"] == "arithmetic"


def test_limits_are_the_best_that_was_seen() -> None:
    limits = Limits(1, seconds=0.0)
    first = limits.bandwidth(1 << 20)
    assert limits.bandwidth(1 << 20) >= first > 0
    assert limits.peak("generic", False) > 0


def test_peaks_leave_the_tiles_of_the_kernels_as_they_were() -> None:
    isa = _native.isas()[0]
    x = np.random.default_rng(0).standard_normal((40, 256)).astype(np.float32)
    raw = np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32).view(np.uint8).reshape(-1)
    quantised = np.zeros(32 * 8 * 34, np.uint8)
    before = _native.matmul(isa, quantised, 32, 256, "q8_0", x), _native.matmul(isa, raw, 32, 256, "f32", x)
    _native.multiply_add_peak(isa, True, 2, 0.0)
    after = _native.matmul(isa, quantised, 32, 256, "q8_0", x), _native.matmul(isa, raw, 32, 256, "f32", x)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_impossible_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="4096 bytes"):
        _native.read_bandwidth(100, 1, 0.0)
    with pytest.raises(ValueError, match="needs a thread"):
        _native.multiply_add_peak("generic", True, 0, 0.0)
    with pytest.raises(ValueError, match="'sse9' is not available"):
        _native.multiply_add_peak("sse9", True, 1, 0.0)
    with pytest.raises(ValueError, match="columns"):
        _native.time_matmul("generic", np.zeros(18, np.uint8), 1, 32, "q4_0", np.zeros((1, 64), np.float32), 1, 0)


def test_activations_are_integers_of_16_bits_with_one_scale_a_token() -> None:
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    d, q = activation_integers(x)
    assert np.abs(q).max(1).tolist() == [32639, 32639]
    assert (np.abs(q * d[:, None] - x) <= 0.51 * d[:, None]).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_weights_in_units_of_their_row_are_what_the_file_has(kind: str) -> None:
    weight = random_matrix(np.random.default_rng(1), kind, 5, 512, kind)
    unit, w = weight_integers(weight)
    exact = weight.dequantize()
    if kind != "q8_0":
        assert np.abs(w).max() < 32768
        assert np.array_equal(w, np.rint(w))
    largest = np.abs(exact).max(1, keepdims=True)
    assert (np.abs(w * unit[:, None] - exact) <= 1.1e-3 * largest).all()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kernels.json"
    command = ["bench", "kernels", "--isa", "generic", "--format", "q4_0", "--format", "f32", "--tokens", "1,4"]
    assert main([*command, "--megabytes", "0.5", "--seconds", "0.001", "--threads", "1", "--json", str(file)]) == 0
    assert "generic: at best" in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert [(run["format"], run["tokens"]) for run in result["runs"]] == [
        ("q4_0", 1),
        ("q4_0", 4),
        ("f32", 1),
        ("f32", 4),
    ]
    assert result["machine"]["read_gb_s"] > 0
    [(isa, rows)] = tables(result["runs"])
    assert isa == "generic"
    assert [row[0] for row in rows] == ["format", "q4_0", "f32"]


@pytest.mark.parametrize("option", [("--isa", "sse9"), ("--format", "q3_k")])
def test_what_is_not_there_is_refused_with_what_is(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", *option]) == 1
    assert f"{option[0]} is '{option[1]}'" in capsys.readouterr().err
