"""Names of pages: equal exactly when salt and all tokens up to the page's end are equal; and the index over them."""

import hashlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from befit.cache.prefix import PrefixIndex, chain_root, extend_chain

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=24)


def names_of(ids: list[int], salt: str = "", size: int = 4) -> list[bytes]:
    names: list[bytes] = []
    extend_chain(names, chain_root(size, salt), ids, size, len(ids) // size)
    return names


def test_a_name_is_sha256_over_canonical_bytes() -> None:
    root = hashlib.sha256(b"befit/kv/root/1\0" + struct.pack("<I", 2) + b"s").digest()
    first = hashlib.sha256(b"befit/kv/page/1\0" + root + bytes([1, 0, 0, 0, 0, 1, 0, 0])).digest()
    assert names_of([1, 256, 7], salt="s", size=2) == [first]


@given(tokens, tokens)
def test_equal_names_mean_equal_prefixes(a: list[int], b: list[int]) -> None:
    for i, (x, y) in enumerate(zip(names_of(a), names_of(b), strict=False)):
        assert (x == y) == (a[: 4 * (i + 1)] == b[: 4 * (i + 1)])


@given(tokens, st.integers(0, 6))
def test_a_chain_can_be_extended_in_steps(ids: list[int], first: int) -> None:
    names: list[bytes] = []
    root = chain_root(4, "")
    extend_chain(names, root, ids, 4, min(first, len(ids) // 4))
    extend_chain(names, root, ids, 4, len(ids) // 4)
    assert names == names_of(ids)


def test_salts_and_page_sizes_keep_chains_apart() -> None:
    ids = list(range(8))
    assert not set(names_of(ids, "a")) & set(names_of(ids, "b"))
    assert not set(names_of(ids, size=4)) & set(names_of(ids, size=2))


def test_the_index_finds_the_longest_known_prefix() -> None:
    index = PrefixIndex()
    names = names_of(list(range(12)))
    index.publish(7, names[0])
    index.publish(3, names[1])
    assert index.match(names, 3) == [7, 3]
    assert index.match(names, 1) == [7]
    index.forget(7)
    assert index.match(names, 3) == []
    assert index.knows(3)
    assert not index.knows(7)
    index.check_integrity()


def test_the_first_page_of_a_name_stays() -> None:
    index = PrefixIndex()
    [name] = names_of([1, 2, 3, 4])
    index.publish(1, name)
    index.publish(2, name)
    assert index.match([name], 1) == [1]
    index.forget(2)
    assert index.match([name], 1) == [1]
    assert len(index) == 1
