"""Finding KV pages again: a hash chain over token ids names each full page together with all that came before it.

The name of a page is SHA-256 over canonical bytes: a domain label, the parent's name (32 bytes) and the page's token
ids as little-endian uint32. The chain starts at a root that covers the page size and the request's salt, so that equal
names mean equal tokens from position 0 on, within one salt. Only full pages are named: they never change again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

_ROOT = b"befit/kv/root/1\0"
_PAGE = b"befit/kv/page/1\0"


def chain_root(block_size: int, salt: str) -> bytes:
    """The start of a chain. Requests with different salts never share pages."""
    return hashlib.sha256(_ROOT + struct.pack("<I", block_size) + salt.encode("utf-8", "surrogatepass")).digest()


def extend_chain(names: list[bytes], root: bytes, tokens: Sequence[int], block_size: int, n_pages: int) -> None:
    """Append names to `names` until it covers the first `n_pages` pages of `tokens`."""
    packer = struct.Struct(f"<{block_size}I")
    parent = names[-1] if names else root
    for index in range(len(names), n_pages):
        page = packer.pack(*tokens[index * block_size : (index + 1) * block_size])
        parent = hashlib.sha256(_PAGE + parent + page).digest()
        names.append(parent)


class PrefixIndex:
    """Which page holds the content of which name. At most one page a name, and one name a page."""

    def __init__(self) -> None:
        self._page_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._page_of)

    def match(self, names: Sequence[bytes], limit: int) -> list[int]:
        """Pages of the longest known prefix of `names`, at most `limit` of them."""
        pages = []
        for name in names[:limit]:
            page = self._page_of.get(name)
            if page is None:
                break
            pages.append(page)
        return pages

    def publish(self, page: int, name: bytes) -> None:
        """`page` now holds the content of `name`. The first page of a name stays; later copies are not listed."""
        if name not in self._page_of:
            self._page_of[name] = page
            self._name_of[page] = name

    def knows(self, page: int) -> bool:
        """Whether the page can be found by a name."""
        return page in self._name_of

    def forget(self, page: int) -> None:
        """The page gets new content."""
        name = self._name_of.pop(page, None)
        if name is not None:
            del self._page_of[name]

    def check_integrity(self) -> None:
        """Raise AssertionError unless both directions agree."""
        if {name: page for page, name in self._name_of.items()} != self._page_of:
            raise AssertionError("The prefix index's two directions disagree.")
