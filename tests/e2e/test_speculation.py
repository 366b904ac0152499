"""Speculation as a client sees it: several tokens a chunk, the same text, and counts in the metrics."""

import pytest

pytestmark = pytest.mark.model

LIST = "\n".join(f"item_{i} = Item(name='item {i}', price={i * 7})" for i in range(8))


def test_repeated_text_is_drafted_and_streams_as_ever(server, client):
    before = server.metric("spec_decode_num_accepted_tokens_total")
    prompt = f"{LIST}\n\n# once more\n{LIST[:60]}"
    wishes = {"model": "smol", "prompt": prompt, "temperature": 0, "max_tokens": 60}
    whole = client.completions.create(**wishes)
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**wishes, stream=True))
    assert streamed == whole.choices[0].text
    assert whole.usage.completion_tokens == 60
    # How many are drafted hangs on what steps have taken, which on a busy machine may be anything.
    assert server.metric("spec_decode_num_accepted_tokens_total") > before
    assert server.metric("spec_decode_mean_acceptance_length") > 1
    server.until_idle()
