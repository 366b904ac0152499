"""A progress bar over bytes, or over something else that comes in large numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, total: int, enabled: bool, unit: str = "B") -> Iterator[Callable[[int], None]]:
    """Draws on standard error; the function it gives takes what is done so far."""
    if not enabled:
        yield lambda done: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    interval = 0.1 if sys.stderr.isatty() else 5.0
    with tqdm(total=total, desc=what, unit=unit, unit_scale=True, mininterval=interval) as drawn:

        def show(done: int) -> None:
            drawn.update(done - drawn.n)

        yield show
