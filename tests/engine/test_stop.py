"""Stop strings: however the text is cut into pieces, the output is the full text cut at the first completed one."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from befit.engine.stop import StopStrings

alphabet = st.text("ab\n", max_size=30)
stop_lists = st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=1, max_size=4)


def oracle(text: str, stops: list[str], *, include: bool = False, after: int = 0) -> tuple[str, str | None]:
    """The shortest prefix that ends, past `after`, with a stop string decides; the longest such stop string counts."""
    for end in range(after + 1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            stop = max(matches, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def cut(text: str, cuts: list[int]) -> list[str]:
    at = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(at)]


def stream(pieces: list[str], watch: StopStrings, armed_from: int = 0) -> list[str]:
    shown = []
    for i, piece in enumerate(pieces):
        shown.append(watch.push(piece, armed=i >= armed_from))
        if watch.matched is not None:
            return shown
    return [*shown, watch.flush()]


@given(alphabet, stop_lists, st.lists(st.integers(0, 100), max_size=10), st.booleans())
def test_streaming_equals_cutting_the_full_text(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    watch = StopStrings(stops, include=include)
    shown = "".join(stream(cut(text, cuts), watch))
    assert (shown, watch.matched) == oracle(text, stops, include=include)


@given(alphabet, stop_lists, st.lists(st.integers(0, 100), max_size=10), st.integers(0, 5))
def test_below_min_tokens_a_stop_string_is_text(text: str, stops: list[str], cuts: list[int], free: int) -> None:
    pieces = cut(text, cuts)
    watch = StopStrings(stops)
    shown = "".join(stream(pieces, watch, armed_from=free))
    assert (shown, watch.matched) == oracle(text, stops, after=len("".join(pieces[:free])))


@given(alphabet, stop_lists)
def test_only_a_possible_beginning_of_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    watch = StopStrings(stops)
    shown = watch.push(text)
    if watch.matched is None:
        held = text[len(shown) :]
        longest = max((k for stop in stops for k in range(len(stop)) if text.endswith(stop[:k])), default=0)
        assert len(held) == longest


def test_a_stop_string_over_three_tokens_is_never_shown() -> None:
    watch = StopStrings(["\nclass"])
    assert [watch.push(piece) for piece in ("x = 1\n", "cl", "ass Foo")] == ["x = 1", "", ""]
    assert watch.matched == "\nclass"


def test_held_text_comes_out_when_it_turns_out_harmless() -> None:
    watch = StopStrings(["END"])
    assert [watch.push(piece) for piece in ("a E", "N", "T")] == ["a ", "", "ENT"]


def test_a_long_stop_string_costs_constant_time_a_character() -> None:
    watch = StopStrings(["a" * 100_000 + "b"])
    shown = sum(len(watch.push("a" * 1000)) for _ in range(300))
    assert shown == 200_000
