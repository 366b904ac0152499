"""What clients may call models: names and references, and never a path."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.api.models.library import Library, Upload, reference, stored_name
from befit.config import EngineOptions
from befit.errors import InvalidRequest, ModelNotFound


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("smollm2:135m", "smollm2:135m"),
        ("hf.co/Owner/Repo-GGUF:Q4_K_M", "hf:Owner/Repo-GGUF:Q4_K_M"),
        ("huggingface.co/Owner/Repo", "hf:Owner/Repo"),
        ("ollama:qwen:7b", "ollama:qwen:7b"),
        ("pypi:tiny-model==1.0", "pypi:tiny-model==1.0"),
    ],
)
def test_names_and_references(asked: str, meant: str) -> None:
    assert reference(asked) == meant


@given(st.text(alphabet=list("abz019./~:-_\\ \x00"), max_size=12))
def test_nothing_that_could_be_a_path_is_a_name(text: str) -> None:
    for check, error in ((reference, ModelNotFound), (stored_name, InvalidRequest)):
        try:
            found = check(text)
        except error:
            continue
        assert os.sep not in found
        assert not found.startswith((".", "~"))
        assert not found.endswith(".gguf")


def test_a_file_in_the_working_folder_is_no_model(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("x")
    with pytest.raises(ModelNotFound):
        Library(EngineOptions()).find("secret")


def test_a_name_without_a_tag_is_the_latest() -> None:
    assert stored_name("Mine") == "mine:latest"
    assert stored_name("mine:2b") == "mine:2b"


def test_an_upload_gets_its_name_when_it_is_whole(tmp_path) -> None:
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    for data, good in ((b"y", False), (b"x", True)):
        upload = Upload(tmp_path / f"sha256-{digest}")
        upload.write(data)
        if good:
            upload.finish()
        else:
            with pytest.raises(InvalidRequest, match="digest"):
                upload.finish()
        upload.close()
        assert [path.name for path in tmp_path.iterdir()] == ([f"sha256-{digest}"] if good else [])
