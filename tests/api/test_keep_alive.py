"""How long a model stays: seconds, or durations as Go writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.api.models.keep_alive import seconds
from befit.errors import InvalidRequest


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (5, 5), (0, 0), ("0", 0), ("300", 300), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), (".5s", 0.5),
        ("250ms", 0.25), ("10us", 1e-5), (-1, None), ("-1", None), ("-1s", None), ("-5m", None), (1e300, None),
    ],
)  # fmt: skip
def test_seconds_durations_and_for_ever(written: float | str, meant: float | None) -> None:
    assert seconds(written) == (pytest.approx(meant) if meant is not None else None)


@pytest.mark.parametrize("written", ["", "soon", "5 m", "m", "1h30", "--1s", "1d", "1e3s", "٣s", float("nan"), "."])
def test_what_is_no_duration_is_refused(written: float | str) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        seconds(written)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_units_add_up(hours: int, minutes: int, secs: int) -> None:
    assert seconds(f"{hours}h{minutes}m{secs}s") == pytest.approx(hours * 3600 + minutes * 60 + secs)
