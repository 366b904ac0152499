"""The sampling that a model's makers recommend."""

from __future__ import annotations

from typing import Any

import pytest

from befit.errors import CorruptFile
from befit.sampling import SamplingParams, recommended


def test_what_a_model_recommends() -> None:
    keys = {"temp": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.01, "penalty_repeat": 1.05, "mirostat": 2}
    found = recommended({f"general.sampling.{key}": value for key, value in keys.items()})
    assert SamplingParams(**found) == SamplingParams(
        temperature=0.7, top_k=20, top_p=0.8, min_p=0.01, repetition_penalty=1.05
    )
    assert recommended({"general.name": "x"}) == {}


@pytest.mark.parametrize(("key", "value"), [("top_p", 7), ("temp", "warm"), ("top_k", -3)])
def test_what_makes_no_sense_is_the_files_fault(key: str, value: Any) -> None:
    with pytest.raises(CorruptFile, match="recommended sampling"):
        recommended({f"general.sampling.{key}": value})
