"""The store of responses stays within its number and size, whatever happens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.api.openai.responses.store import Kept, ResponseStore
from befit.errors import ResponseNotFound

MOST, BYTES = 4, 2000

steps = st.lists(
    st.tuples(st.sampled_from(["put", "end", "delete"]), st.integers(0, 9), st.integers(0, 900)), max_size=40
)


def kept(name, size, status="completed"):
    item = {"id": f"msg_{name}", "type": "message", "content": [{"text": "x" * size}]}
    return Kept({"id": name, "status": status}, [item], [item])


@settings(max_examples=200)
@given(steps)
def test_it_never_grows_beyond_its_bounds(steps):
    store = ResponseStore(MOST, BYTES)
    running = {}
    for what, number, size in steps:
        name = f"resp_{number}"
        if what == "put" and name not in store:
            running[name] = kept(name, size, "in_progress")
            store.put(running[name])
        elif what == "end" and name in running:
            running[name].body["status"] = "completed"
            store.put(running.pop(name))
        elif what == "delete" and name in store:
            store.delete(name)
            running.pop(name, None)
        assert all(name in store for name in running), "what runs stays"
        assert store.bytes == sum(store.get(f"resp_{i}").size for i in range(10) if f"resp_{i}" in store)
        if not running:
            assert len(store) <= MOST
            assert store.bytes <= BYTES


def test_the_oldest_make_room():
    store = ResponseStore(2, 10_000)
    for name in "abc":
        store.put(kept(name, 1))
    assert [name in store for name in "abc"] == [False, True, True]
    find = store.finder()
    assert find("msg_b") is not None
    assert find("msg_a") is None
    with pytest.raises(ResponseNotFound, match="newest 2"):
        store.get("a")
