"""The output items of a response as the parts of a message come: each begins and ends once, in order."""

from hypothesis import given
from hypothesis import strategies as st

from befit.api.message import Reasoning
from befit.api.openai.responses.items import read_items, to_messages
from befit.api.openai.responses.output import Output
from befit.api.tools.pieces import CallDelta

THOUGHT = [Reasoning("Let me "), Reasoning("see.")]
CALL = [CallDelta(0, "", "c1", "f"), CallDelta(0, '{"x": '), CallDelta(0, "1}")]


def run(parts, status="completed"):
    """(the events' types and fields, the items of the end)."""
    output = Output(None, 0)
    events = [event for part in parts for event in output.take([part], [])]
    events += output.finish(status)
    return events, output.items(status)


def test_thoughts_text_and_calls():
    events, items = run([*THOUGHT, "I will ", "call f.", *CALL])
    assert [item["type"] for item in items] == ["reasoning", "message", "function_call"]
    assert items[0]["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert items[0]["summary"] == []
    assert items[1]["content"][0]["text"] == "I will call f."
    assert (items[2]["name"], items[2]["call_id"], items[2]["arguments"]) == ("f", "c1", '{"x": 1}')
    assert [kind for kind, _ in events] == [
        "output_item.added",
        *["reasoning_text.delta"] * 2,
        "reasoning_text.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 2,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        *["function_call_arguments.delta"] * 2,
        "function_call_arguments.done",
        "output_item.done",
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    said = {"role": "assistant", "content": "I will call f.", "reasoning_content": "Let me see.", "tool_calls": [call]}
    assert to_messages(read_items(items, lambda name: None)) == [said]


def test_thoughts_before_a_call_belong_to_its_message():
    _, items = run([*THOUGHT, *CALL])
    [message] = to_messages(read_items(items, lambda name: None))
    assert (message["content"], message["reasoning_content"]) == ("", "Let me see.")


def test_only_the_last_item_is_incomplete():
    _, items = run(["a", *CALL[:2]], "incomplete")
    assert [item["status"] for item in items] == ["completed", "incomplete"]


parts = st.lists(
    st.sampled_from(["a", "b"])
    | st.builds(Reasoning, st.sampled_from(["t", "u"]))
    | st.builds(lambda name, text: [CallDelta(0, "", "c", name), CallDelta(0, text)], st.sampled_from("fg"), st.text()),
    max_size=6,
)


@given(parts)
def test_events_add_up_to_the_items(found):
    events, items = run([part for one in found for part in (one if isinstance(one, list) else [one])])
    added = [fields["item"] for kind, fields in events if kind == "output_item.added"]
    assert [fields["item"] for kind, fields in events if kind == "output_item.done"] == items
    assert [item["id"] for item in added] == [item["id"] for item in items]
    assert {item["status"] for item in added} == {"in_progress"}
    for at, item in enumerate(items):
        deltas = [fields for kind, fields in events if kind.endswith(".delta") and fields["output_index"] == at]
        assert {fields["item_id"] for fields in deltas} <= {item["id"]}
        whole = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert "".join(fields["delta"] for fields in deltas) == whole
