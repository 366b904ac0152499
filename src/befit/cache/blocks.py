"""The pool of KV pages: reference counts, and free pages in the order in which they are to be reused.

Only page numbers live here; the memory is the backend's. A page whose count falls to zero is free but keeps its
content until `alloc` hands it out, so a prefix index may `acquire` it again before that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class BlockPool:
    """Pages 0..n_blocks-1. All operations are O(1).

    `evicted(page)` is called when a free page is about to get new content. Free pages are handed out least recently
    released first; pages released as worthless (`keep=False`) go before all others.
    """

    def __init__(self, n_blocks: int, evicted: Callable[[int], None] | None = None) -> None:
        self.n_blocks = n_blocks
        self._refs = [0] * n_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))
        self._evicted = evicted

    @property
    def n_free(self) -> int:
        """Pages that `alloc` can hand out."""
        return len(self._free)

    @property
    def n_used(self) -> int:
        """Pages that somebody holds."""
        return self.n_blocks - len(self._free)

    def refs(self, page: int) -> int:
        """How many holders a page has."""
        return self._refs[page]

    def alloc(self) -> int:
        """A page of one's own (count 1), its old content forgotten. The caller has checked `n_free`."""
        page, _ = self._free.popitem(last=False)
        if self._evicted is not None:
            self._evicted(page)
        self._refs[page] = 1
        return page

    def acquire(self, page: int) -> None:
        """One more holder of a page whose content is wanted, held or free."""
        if self._refs[page] == 0:
            del self._free[page]
        self._refs[page] += 1

    def release(self, page: int, *, keep: bool = True) -> None:
        """One holder fewer. The last one frees the page; `keep` says that its content may be wanted again."""
        refs = self._refs[page]
        if refs <= 0:
            raise AssertionError(f"KV page {page} is released but nobody holds it.")
        self._refs[page] = refs - 1
        if refs == 1:
            self._free[page] = None
            if not keep:
                self._free.move_to_end(page, last=False)

    def check_integrity(self) -> None:
        """Raise AssertionError unless the free list is exactly the pages without holders."""
        if len(self._refs) != self.n_blocks or min(self._refs, default=0) < 0:
            raise AssertionError("A KV page has a negative reference count, or the pool changed its size.")
        unheld = {page for page, refs in enumerate(self._refs) if refs == 0}
        if unheld != set(self._free):
            raise AssertionError(
                f"Free list and reference counts disagree on pages {sorted(unheld ^ set(self._free))}."
            )
