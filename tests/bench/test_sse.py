"""Server-sent events, however the bytes are split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.bench.sse import EventParser

WHOLE = (
    b': ping\r\n\r\ndata: {"a": 1}\n\nevent: chunk\nid: 7\ndata:{"b": 2}\r\n\r\n'
    b"data: two\ndata: lines\n\n\n\ndata:  kept\n\ndata: \xc3\xa9\n\ndata: [DONE]\n\ndata: never ends\n"
)
EVENTS = [b'{"a": 1}', b'{"b": 2}', b"two\nlines", b" kept", "é".encode(), b"[DONE]"]


@given(st.lists(st.integers(0, len(WHOLE)), max_size=40))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    parser, found = EventParser(), []
    edges = [0, *sorted(cuts), len(WHOLE)]
    for start, end in itertools.pairwise(edges):
        found += parser.feed(WHOLE[start:end])
    assert found == EVENTS


@pytest.mark.parametrize("size", [1, 2, 3, len(WHOLE)])
def test_even_splits_too(size: int) -> None:
    parser = EventParser()
    assert [e for i in range(0, len(WHOLE), size) for e in parser.feed(WHOLE[i : i + size])] == EVENTS
