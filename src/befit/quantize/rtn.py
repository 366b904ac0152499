"""Round to nearest with a search: the scale and the minimum of each group that lose least in weighted squared error.

The range of a group's weights gives the plain scale. It is rarely the best: a scale that clips the largest weight a
little, or spreads the levels differently, rounds all others better. So a few candidates are tried. Each assigns
integers, then the scale and minimum that fit these integers best follow in closed form (weighted least squares), are
rounded to what the file can hold, and are judged by the error that a reader of the file will see. The plain scale is
judged too, so the result is never worse than plain rounding. The idea is that of ggml's `make_qkx2_quants` and
`make_qx_quants`.

Groups are columns here: x and w are [group, N], so that sums over a group add whole rows. w are weights of the error,
None is 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]
Rounding: TypeAlias = Callable[[F32], F32]
"""What becomes of a scale when it is stored."""

AFFINE_SPREADS = (-1.0, -0.4, 0.2, 0.8, 1.6)
"""Candidates of an affine group spread its range over so many levels more than there are."""
SYMMETRIC_SPREADS = (-0.9, -0.5, 0.0, 0.4, 0.8)
"""The same for a symmetric group."""

_TINY = np.float32(1e-30)


def as_f16(x: F32) -> F32:
    """Rounded to half precision; infinite where that overflows."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def as_is(x: F32) -> F32:
    """Not rounded: for scales that are rounded later, several together."""
    return x


def affine(
    x: F32, w: F32 | None, top: int, rounding: Rounding, *, below_zero: bool = False, search: bool = True
) -> tuple[F32, F32]:
    """Scale s and minimum b, [N] each, for x ≈ s * q + b with q in 0..top. below_zero allows no b above 0.

    Without `search` it is plain rounding: the range of the group over the levels.
    """
    low = x.min(axis=0)
    if below_zero:
        np.minimum(low, 0, out=low)
    width = x.max(axis=0) - low
    s, b = rounding(width / np.float32(top)), rounding(low)
    if not search:
        return s, b
    least = error(x, w, quantised(x, s, b, 0, top), s, b)
    for spread in AFFINE_SPREADS:
        q = quantised(x, width / np.float32(top + spread), low, 0, top)
        new_s, new_b = (rounding(part) for part in _line(x, w, q, below_zero))
        _keep_better(x, w, (new_s, new_b), (s, b), least, 0, top)
    return s, b


def symmetric(x: F32, w: F32 | None, bits: int, rounding: Rounding, *, search: bool = True) -> F32:
    """Scale s [N], of either sign, for x ≈ s * q with q in -2^(bits-1) .. 2^(bits-1) - 1.

    Plain is the scale that gives the weight that is furthest from 0 the lowest integer.
    """
    low, top = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    furthest = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    s = rounding(furthest / np.float32(low))
    if not search:
        return s
    zero = np.zeros_like(s)
    least = error(x, w, quantised(x, s, zero, low, top), s, zero)
    for spread in SYMMETRIC_SPREADS:
        q = quantised(x, furthest / np.float32(low + spread), zero, low, top)
        new_s = rounding(_slope(x, w, q))
        _keep_better(x, w, (new_s, zero), (s, zero), least, low, top)
    return s


def quantised(x: F32, s: F32, b: F32, low: int, top: int) -> F32:
    """The nearest integers from low to top, as floats: round((x - b) / s), and 0 where s is 0."""
    usable = np.abs(s) > _TINY
    inverse = np.divide(np.float32(1), s, out=np.zeros_like(s), where=usable)
    q = x - b
    q *= inverse
    np.rint(q, out=q)
    return np.clip(q, low, top, out=q)


def error(x: F32, w: F32 | None, q: F32, s: F32, b: F32) -> F32:
    """The weighted squared error of each group, [N]."""
    off = q * s
    off += b
    off -= x
    off *= off
    if w is not None:
        off *= w
    total: F32 = off.sum(axis=0)
    return total


def _keep_better(
    x: F32, w: F32 | None, new: tuple[F32, F32], best: tuple[F32, F32], least: F32, low: int, top: int
) -> None:
    """Put the scales of groups that err less with `new` in place of those in `best`, and their errors in `least`."""
    found = error(x, w, quantised(x, *new, low, top), *new)
    better = found < least
    for old, fresh in zip(best, new, strict=True):
        np.copyto(old, fresh, where=better)
    np.copyto(least, found, where=better)


def _line(x: F32, w: F32 | None, q: F32, below_zero: bool) -> tuple[F32, F32]:
    """The s and b that minimise the error for given integers; where all integers are equal, s is 0."""
    wq = q if w is None else q * w
    total = np.full(x.shape[1], x.shape[0], np.float32) if w is None else w.sum(axis=0)
    q1, q2, xq = wq.sum(axis=0), (wq * q).sum(axis=0), (wq * x).sum(axis=0)
    x1 = x.sum(axis=0) if w is None else (w * x).sum(axis=0)
    spread = total * q2 - q1 * q1
    usable = spread > _TINY
    s = np.divide(total * xq - q1 * x1, spread, out=np.zeros_like(spread), where=usable)
    b = np.divide(x1 - s * q1, total, out=np.zeros_like(total), where=total > _TINY)
    if below_zero:
        above = b > 0
        np.copyto(s, np.divide(xq, q2, out=np.zeros_like(q2), where=q2 > _TINY), where=above)
        np.copyto(b, 0, where=above)
    return s, b


def _slope(x: F32, w: F32 | None, q: F32) -> F32:
    """The s that minimises the error for given integers and no minimum."""
    wq = q if w is None else q * w
    q2 = (wq * q).sum(axis=0)
    s: F32 = np.divide((wq * x).sum(axis=0), q2, out=np.zeros_like(q2), where=q2 > _TINY)
    return s
