"""Blocks that are written hold what an independent reader finds in them, and are never worse than plain rounding."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.quantize import rtn
from befit.quantize.encode import encode_rows
from befit.weights.blocks import Q4_0, Q4_1, Q4_K, Q5_0, Q6_K, Q8_0
from befit.weights.tensor import QuantFormat, QuantTensor

FORMATS = (Q4_0, Q4_1, Q4_K, Q6_K, Q8_0)
formats = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Weights as models have them, and as they do not: outliers, one sign, rows of zeros, tiny and large ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((draw(st.integers(1, 3)), 512)) * 10.0 ** draw(st.integers(-4, 3))
    kind = draw(st.sampled_from(["normal", "outliers", "positive", "negative", "constant", "some zeros", "zeros"]))
    if kind == "outliers":
        x[:, rng.integers(0, 512, 5)] *= 30
    elif kind in ("positive", "negative"):
        x = np.abs(x) * (1 if kind == "positive" else -1)
    elif kind == "constant":
        x[:] = x[0, 0]
    elif kind == "some zeros":
        x[:, 64:352] = 0
    elif kind == "zeros":
        x[:] = 0
    return x.astype(np.float32)


def decoded(fmt: QuantFormat, raw: np.ndarray, columns: int = 512) -> np.ndarray:
    return QuantTensor("w", (len(raw), columns), fmt, raw).dequantize()


@formats
@given(x=rows())
@settings(max_examples=30)
def test_an_independent_reader_finds_the_same_weights(fmt: QuantFormat, x: np.ndarray) -> None:
    raw = encode_rows(fmt, x)
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[fmt.name.upper()])
    assert np.allclose(decoded(fmt, raw), theirs, rtol=1e-6, atol=0)


@formats
@given(x=rows())
@settings(max_examples=30)
def test_no_weight_is_off_by_more_than_the_format_allows(fmt: QuantFormat, x: np.ndarray) -> None:
    x = x / max(float(np.abs(x).max()), 1e-30)  # halves are less exact below 6e-5, and so is a scale that small
    raw = encode_rows(fmt, x, search=False)
    groups = x.reshape(len(x), -1, fmt.group)
    levels = {4: 15, 6: 63, 8: 254}[fmt.bits]
    span = groups.max(-1) - groups.min(-1) if fmt.zero is None and fmt is Q4_1 else 2 * np.abs(groups).max(-1)
    if fmt in (Q4_K, Q6_K):  # scales are rounded to few bits themselves, relative to the largest of the block
        whole = 2 * np.abs(x.reshape(len(x), -1, 256)).max(-1)
        span = span + np.repeat(whole, 256 // fmt.group, axis=1) * (0.3 if fmt is Q4_K else 0.2)
    allowed = (span * (1.06 / levels) + 2e-3 * np.abs(groups).max(-1))[..., None] + 1e-4
    off = np.abs(decoded(fmt, raw).reshape(groups.shape) - groups)
    if fmt is Q4_0:  # one end of a symmetric range has one level less
        allowed = allowed * 2
    assert (off <= allowed).all()


@formats
@given(x=rows(), weigh=st.booleans(), seed=st.integers(0, 999))
@settings(max_examples=30)
def test_searching_is_never_worse_than_plain_rounding(fmt: QuantFormat, x: np.ndarray, weigh: bool, seed: int) -> None:
    importance = np.random.default_rng(seed).exponential(size=512).astype(np.float32) if weigh else None
    blocks = x.reshape(len(x), -1, fmt.block)
    # The error that the search minimises; see `encode._blocks`.
    groups = x.reshape(len(x), -1, fmt.group)
    mean = (groups * groups).mean(-1, keepdims=True)
    if importance is None:
        w = np.abs(groups) + np.sqrt(mean)
    else:
        w = np.sqrt(groups * groups + mean) * importance.reshape(1, -1, fmt.group)

    def loss(search: bool) -> np.ndarray:
        back = decoded(fmt, encode_rows(fmt, x, importance, search=search))
        return (w * (back.reshape(groups.shape).astype(np.float64) - groups) ** 2).reshape(blocks.shape).sum(-1)

    plain = loss(False)
    assert (loss(True) <= plain * (1 + 1e-4) + 1e-30).all()


@given(x=rows())
@settings(max_examples=30)
def test_the_search_is_never_worse_in_any_group(x: np.ndarray) -> None:
    groups = np.ascontiguousarray(x.reshape(-1, 32).T)
    zero = np.zeros(groups.shape[1], np.float32)
    for below_zero in (False, True):
        losses = []
        for search in (False, True):
            s, b = rtn.affine(groups, None, 15, rtn.as_f16, below_zero=below_zero, search=search)
            losses.append(rtn.error(groups, None, rtn.quantised(groups, s, b, 0, 15), s, b))
            assert not below_zero or (b <= 0).all()
        assert (losses[1] <= losses[0]).all()
    losses = []
    for search in (False, True):
        s = rtn.symmetric(groups, None, 4, rtn.as_f16, search=search)
        losses.append(rtn.error(groups, None, rtn.quantised(groups, s, zero, -8, 7), s, zero))
    assert (losses[1] <= losses[0]).all()


@formats
def test_searching_pays_on_ordinary_weights(fmt: QuantFormat) -> None:
    x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    plain, searched = (np.square(decoded(fmt, encode_rows(fmt, x, search=s), 1024) - x).mean() for s in (False, True))
    assert searched <= plain * (1.0 if fmt is Q8_0 else 0.97)


@pytest.mark.parametrize("fmt", [Q4_0, Q4_1, Q8_0], ids=lambda fmt: fmt.name)
def test_weights_on_a_grid_come_back(fmt: QuantFormat) -> None:
    """What was rounded once stays as it is when it is rounded again, where each group has a scale of its own."""
    x = np.random.default_rng(1).standard_normal((16, 512)).astype(np.float32)
    once = decoded(fmt, encode_rows(fmt, x, search=False))
    assert np.abs(decoded(fmt, encode_rows(fmt, once)) - once).max() <= 2e-3 * np.abs(once).max()


@formats
def test_threads_change_nothing(fmt: QuantFormat) -> None:
    x = np.random.default_rng(2).standard_normal((1100, 512)).astype(np.float32)
    assert (encode_rows(fmt, x, threads=3) == encode_rows(fmt, x)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6])
def test_weights_that_no_scale_can_hold_are_refused(bad: float) -> None:
    x = np.zeros((4, 512), np.float32)
    x[2, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        encode_rows(Q4_0, x)


def test_what_cannot_be_encoded_is_said() -> None:
    with pytest.raises(ValueError, match="whole blocks of 256"):
        encode_rows(Q4_K, np.zeros((2, 320), np.float32))
    with pytest.raises(ValueError, match="q4_0, q4_1, q8_0, q4_k, q6_k"):
        encode_rows(Q5_0, np.zeros((2, 32), np.float32))
