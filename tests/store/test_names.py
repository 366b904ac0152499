"""Names are safe as folders, and unknown ones are answered with those that are known."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.errors import ModelNotFound
from befit.store import layout, names


def test_a_name_is_a_family_and_perhaps_a_tag() -> None:
    assert names.parse("smollm2:135m") == names.ModelName("smollm2", "135m")
    assert names.parse("SmolLM2:135M") == names.ModelName("smollm2", "135m")
    assert names.parse("qwen2.5-coder") == names.ModelName("qwen2.5-coder", None)


@pytest.mark.parametrize("text", ["", "..", "../x:y", "a/b", "a:..", "a:", ":b", "a b", "-a", "a:b:c", "é", "a" * 65])
def test_what_is_no_name(text: str) -> None:
    assert names.parse(text) is None
    with pytest.raises(ModelNotFound, match="no model name and no file"):
        names.require(text)


@given(st.text(max_size=20) | st.from_regex(names._NAME, fullmatch=True))
def test_the_folder_of_any_name_is_two_levels_below_models(text: str) -> None:
    name = names.parse(text)
    if name is None:
        return
    assert names.parse(str(name)) == name
    place = PurePosixPath(layout.folder(str(name)))
    assert place.parent.parent == PurePosixPath(layout.home() / "models")
    assert not {".", ".."} & set(place.parts)
