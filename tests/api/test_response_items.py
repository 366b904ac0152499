"""Whatever an `input` holds, it becomes messages or is refused as the client's mistake."""

from hypothesis import given, settings
from hypothesis import strategies as st

from befit.api.chat_messages import plain_messages
from befit.api.openai.responses.items import read_items, to_messages
from befit.errors import InvalidRequest

anything = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id"]), inner),
    max_leaves=5,
)
parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_text", "output_text", "text", "refusal", "reasoning_text", "input_image"])},
        optional={"text": st.text(max_size=3) | anything, "refusal": st.text(max_size=3)},
    ),
    max_size=3,
)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["message", "function_call", "function_call_output", "reasoning", "item_reference", "web_search_call"]
        )
        | anything,
        "id": st.text(max_size=3) | anything,
        "role": st.sampled_from(["user", "assistant", "system", "developer"]) | anything,
        "content": st.text(max_size=3) | parts | anything,
        "call_id": st.text(max_size=3) | anything,
        "name": st.text(max_size=3),
        "arguments": st.sampled_from(["{}", "nonsense"]),
        "output": st.text(max_size=3) | parts | anything,
    },
)


@settings(max_examples=250)
@given(st.lists(items, max_size=4) | anything)
def test_any_input(value):
    try:
        found = read_items(value, {"msg_1": {"id": "msg_1"}}.get)
    except InvalidRequest as error:
        assert error.param == "input"  # noqa: PT017 - either outcome is right
        return
    assert all(isinstance(item["id"], str) and item["id"] for item in found)
    messages = to_messages(found)
    if messages:
        assert all(isinstance(message["content"], str) for message in plain_messages(messages))
    assert read_items(found, lambda name: None) == found, "items that are kept can be sent again"
