"""Names are safe as folders, and unknown ones are answered with those that are known."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.errors import ModelNotFound
from befit.store import catalogue, layout, names


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


def test_every_catalogue_entry_has_a_full_name_and_a_digest() -> None:
    for name, entry in catalogue.CATALOGUE.items():
        assert entry.name == name
        assert names.require(name).tag is not None
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert "==" in entry.requirement


def test_a_family_with_one_tag_needs_no_tag() -> None:
    found = catalogue.find("smollm2")
    assert found is not None
    assert found.name == catalogue.DEFAULT_MODEL
    assert catalogue.find("smollm2:999b") is None


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    error = catalogue.not_found("smolm2:135m", ["other:1b"])
    assert "Did you mean smollm2:135m?" in error.message
    assert "other:1b" in error.message
