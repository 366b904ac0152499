"""A built folder is served like the file that it was built from."""

import os
from pathlib import Path

import openai
import pytest

from befit.prepared.write import build

from .conftest import SIZES, ServerProcess

pytestmark = [pytest.mark.model, pytest.mark.slow]

ASKED = {"prompt": "def fibonacci(n):\n", "max_tokens": 24, "temperature": 0, "logprobs": 1}


def test_a_server_on_a_built_folder(client: openai.OpenAI, smollm2_path: Path, tmp_path: Path) -> None:
    expected = client.completions.create(model="smol", **ASKED).choices[0]
    folder = tmp_path / "built"
    build(smollm2_path, folder, name="smol:built", threads=2)
    os.truncate(folder / "weights.bin", 1000)  # what is found at the start is mended
    server = ServerProcess(folder, *SIZES)
    try:
        assert "weights.bin has 1,000 bytes instead of" in server.log
        assert "building it anew from" in server.log
        assert server.http.get("/v1/models").json()["data"][0]["id"] == "smol:built"
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as built:
            found = built.completions.create(model="smol:built", **ASKED).choices[0]
        assert (found.text, found.logprobs) == (expected.text, expected.logprobs)
    finally:
        assert server.stop() == 0
