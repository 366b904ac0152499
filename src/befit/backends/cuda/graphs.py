"""Decode steps recorded once and replayed: which shapes, when to record, and what makes a recording worthless.

A recorded step reads its numbers from buffers that never move (see staging.py), so steps are padded to a few shapes.
How a step is recorded is a `Recorder`'s business; everything here works without a card.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from befit.backends.cuda.size import BUCKETS
from befit.backends.cuda.staging import Shape

log = logging.getLogger("befit.cuda")

RECORD_AT = 2
"""A shape is recorded the second time it comes, so that a start and a first token wait for no recording."""

Out = TypeVar("Out")
Out_co = TypeVar("Out_co", covariant=True)


class Recording(Protocol[Out_co]):
    """A step on the device."""

    def replay(self) -> Out_co:
        """Run it on what the static buffers hold; its outputs, which the next replay overwrites."""
        ...


class Recorder(Protocol):
    """Makes recordings."""

    def record(self, run: Callable[[], Out]) -> Recording[Out]:
        """Record what `run` does. It may be called several times, and none of its effects counts."""
        ...


def padded(shape: Shape, *, most_seqs: int, most_pages: int, all_pages: bool) -> Shape | None:
    """The bucket of a step, or None for one that is not recorded: no plain decode, or larger than the buckets.

    all_pages: tables always have room for the longest context, since what is computed does not depend on that room.
    Else it is a power of two, so that short contexts cost little.
    """
    if not shape.decode or shape.hidden or shape.seqs > min(most_seqs, BUCKETS[-1]):
        return None
    seqs = min(next(size for size in BUCKETS if size >= shape.seqs), most_seqs)
    pages = most_pages if all_pages else min(1 << (shape.pages - 1).bit_length(), most_pages)
    return replace(shape, tokens=seqs, seqs=seqs, rows=seqs, pages=pages)


@dataclass(slots=True)
class _Entry(Generic[Out]):
    uses: int = 0
    recording: Recording[Out] | None = None


class Graphs(Generic[Out]):
    """Recordings by shape, made when a shape comes again."""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._entries: dict[Shape, _Entry[Out]] = {}
        self.why_off = "" if recorder else "there is nothing to record with"

    @property
    def recorded(self) -> list[Shape]:
        """The shapes that are replayed."""
        return [shape for shape, entry in self._entries.items() if entry.recording is not None]

    @property
    def on(self) -> bool:
        """Whether steps are recorded."""
        return self._recorder is not None

    def run(self, shape: Shape, step: Callable[[], Out]) -> Out:
        """The step's outputs: replayed, or run as it is. A step that cannot be recorded ends all recording."""
        if self._recorder is None:
            return step()
        entry = self._entries.setdefault(shape, _Entry())
        entry.uses += 1
        if entry.recording is None and entry.uses >= RECORD_AT:
            try:
                entry.recording = self._recorder.record(step)
            except Exception as error:
                self.turn_off(f"recording a step of {shape.seqs} sequences failed: {error}")
                return step()
        return entry.recording.replay() if entry.recording is not None else step()

    def invalidate(self) -> None:
        """Forget all recordings: what they read or wrote is not there any more. They are made anew."""
        self._entries.clear()

    def turn_off(self, why: str) -> None:
        """Forget them and make no more; steps run as they are."""
        log.warning("Steps are not recorded any more: %s", why)
        self.invalidate()
        self._recorder, self.why_off = None, why
