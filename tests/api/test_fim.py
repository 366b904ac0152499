"""Filling in the middle: which family a model is, how it is asked, and what may not break in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.api.fim import FAMILIES, File, FimFormat, Trimmed, require
from befit.errors import ContextExceeded, UnsupportedField
from befit.sampling import SamplingParams
from support.tokenizers import QWEN, byte_level, sentencepiece

END = "<|endoftext|>"
STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
OTHERS = [File("a.py", "A"), File("b.py", "B")]

BYTE_LEVEL = [
    (
        "Qwen2.5-Coder",
        QWEN,
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
        "<|repo_name|>R\n<|file_sep|>a.py\nA\n<|file_sep|>b.py\nB\n<|file_sep|>c.py\n"
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
    ),
    (
        "CodeGemma",
        (*QWEN[:3], "<|file_separator|>"),
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
        "a.py\nA<|file_separator|>b.py\nB<|file_separator|>c.py\n<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
    ),
    (
        "Granite 4",
        QWEN[:3],
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
        "<|fim_prefix|># a.py\nA\n# b.py\nB\n# c.py\nP<|fim_suffix|>S<|fim_middle|>",
    ),
    (
        "StarCoder2",
        (*STARCODER, "<repo_name>", "<file_sep>"),
        "<fim_prefix>P<fim_suffix>S<fim_middle>",
        "<repo_name>R<file_sep>a.py\nA<file_sep>b.py\nB<file_sep><fim_prefix>c.py\nP<fim_suffix>S<fim_middle>",
    ),
    (
        "StarCoder",
        (*STARCODER, "<filename>"),
        "<fim_prefix>P<fim_suffix>S<fim_middle>",
        "<fim_prefix># a.py\nA\n# b.py\nB\n# c.py\nP<fim_suffix>S<fim_middle>",
    ),
    (
        "DeepSeek-Coder",
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>",
        "<｜fim▁begin｜>#a.py\nA\n#b.py\nB\n#c.py\nP<｜fim▁hole｜>S<｜fim▁end｜>",
    ),
    (
        "Codestral",
        ("[SUFFIX]", "[PREFIX]"),
        "[SUFFIX]S[PREFIX]P",
        "[SUFFIX]S[PREFIX]+++++ a.py\nA\n\n+++++ b.py\nB\n\n+++++ c.py\nP",
    ),
]


def found(*control: str, **keys: object) -> FimFormat:
    return require(FimFormat.find(byte_level(END, *control, **keys)), "suffix")


@pytest.mark.parametrize(("name", "control", "hole", "repository"), BYTE_LEVEL, ids=[each[0] for each in BYTE_LEVEL])
def test_each_family_is_asked_in_its_own_way(name: str, control: tuple[str, ...], hole: str, repository: str) -> None:
    tokens = byte_level(END, *control)
    form = require(FimFormat.find(tokens), "suffix")
    assert form.name == name
    ids = form.prompt("P", "S").ids
    assert ids == tokens.encode(hole, add_special=False)
    assert tokens.decode(ids, skip_special=False) == hole
    ids = form.prompt("P", "S", OTHERS, path="c.py", repository="R").ids
    assert ids == tokens.encode(repository, add_special=False)


def test_every_family_is_tested() -> None:
    tested = {name for name, *_ in BYTE_LEVEL} | {"CodeLlama", "SantaCoder"}
    assert tested == {family.name for family in FAMILIES}


def test_santacoder_has_hyphens() -> None:
    assert found("<fim-prefix>", "<fim-suffix>", "<fim-middle>").name == "SantaCoder"


def test_codellama_has_a_space_before_the_prefix_and_none_before_the_suffix() -> None:
    tokens = sentencepiece("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
    form = require(FimFormat.find(tokens), "suffix")
    assert form.name == "CodeLlama"
    spelled = [tokens.token_text(token) for token in form.prompt("x", "x").ids]
    assert spelled == ["<s>", "▁<PRE>", " x", "▁<SUF>", "x", "▁<MID>"]
    ids = form.prompt("", "").ids
    assert [tokens.token_text(token) for token in ids] == ["<s>", "▁<PRE>", "▁<SUF>", "▁<MID>"]


def test_codestral_begins_with_the_suffix() -> None:
    tokens = sentencepiece("[INST]", "[SUFFIX]", "[PREFIX]", "[MIDDLE]")
    form = require(FimFormat.find(tokens), "suffix")
    spelled = [tokens.token_text(token) for token in form.prompt("x", "x").ids]
    assert spelled == ["<s>", "[SUFFIX]", "x", "[PREFIX]", " x"]
    assert tokens.control_tokens["[MIDDLE]"] in form.stop_ids


def test_a_model_without_the_tokens_cannot() -> None:
    assert FimFormat.find(byte_level(END)) is None
    with pytest.raises(UnsupportedField, match="suffix asks to fill in the middle, which this model cannot") as caught:
        require(None, "suffix")
    assert caught.value.param == "suffix"


def test_bos_comes_first_where_the_model_wants_it() -> None:
    form = found(*QWEN, "<s>", bos_token_id=263, add_bos_token=True)
    assert form.prompt("P", "S", OTHERS).ids[:2] == [263, 261]


def test_the_output_ends_at_every_marker() -> None:
    tokens = byte_level(END, *QWEN)
    form = require(FimFormat.find(tokens), "suffix")
    assert set(form.stop_ids) == {tokens.control_tokens[marker] for marker in QWEN}
    assert form.ends(SamplingParams(stop_token_ids=[7])).stop_token_ids == (7, *form.stop_ids)
    assert form.ends(SamplingParams(ignore_eos=True)).stop_token_ids == ()
    assert form.ends(SamplingParams()).editor


TEXT = st.text(st.characters(codec="utf-8")) | st.lists(st.sampled_from([*QWEN, END, "x", "\n"])).map("".join)


@given(prefix=TEXT, suffix=TEXT, name=TEXT, text=TEXT)
def test_markers_in_a_users_files_stay_text(prefix: str, suffix: str, name: str, text: str) -> None:
    tokens = byte_level(END, *QWEN)
    form = require(FimFormat.find(tokens), "suffix")
    ids = form.prompt(prefix, suffix, [File(name, text)], path=name, repository=name).ids
    markers = [tokens.token_text(token) for token in ids if tokens.is_special(token)]
    assert markers == ["<|repo_name|>", "<|file_sep|>", "<|file_sep|>", *QWEN[:3]]
    plain = bytes(token for token in ids if not tokens.is_special(token)).decode()
    assert plain == f"{name}\n{name}\n{text}\n{name}\n{prefix}{suffix}"


@given(
    prefix=st.text("ab", max_size=60),
    suffix=st.text("cd", max_size=60),
    sizes=st.lists(st.integers(0, 30), max_size=4),
    limit=st.integers(4, 200),
)
def test_a_prompt_fits_and_says_what_is_missing(prefix: str, suffix: str, sizes: list[int], limit: int) -> None:
    form = found(*QWEN)
    files = [File(str(at), "e" * size) for at, size in enumerate(sizes)]
    whole = form.prompt(prefix, suffix, files)
    made = form.prompt(prefix, suffix, files, limit=limit)
    assert len(made.ids) <= limit
    trimmed = made.trimmed
    if len(whole.ids) <= limit:
        assert made == whole
        assert not trimmed
    text = bytes(token for token in made.ids if token < 256).decode()
    assert text.endswith(prefix[trimmed.prefix :] + suffix[: len(suffix) - trimmed.suffix])
    if trimmed.prefix or trimmed.suffix:  # the hole comes before everything else, and both sides have their share
        assert 257 in made.ids
        assert 262 not in made.ids
        assert len(suffix) - trimmed.suffix >= min(len(suffix), (limit - 3) // 4)


def test_the_nearest_files_are_kept() -> None:
    tokens = byte_level(END, *QWEN)
    form = require(FimFormat.find(tokens), "suffix")
    whole = form.prompt("P", "S", OTHERS)
    made = form.prompt("P", "S", OTHERS, limit=len(whole.ids) - 1)
    assert tokens.decode(made.ids, skip_special=False).startswith("<|repo_name|>repository\n<|file_sep|>b.py\nB\n")
    assert made.trimmed == Trimmed(files=len("a.pyA\n\n") + 1)


def test_typing_does_not_move_the_window_of_a_long_prefix() -> None:
    form = found(*QWEN)
    made = [form.prompt("".join(map(str, range(200 + typed))), "S" * 50, limit=200) for typed in range(4)]
    begins = [tuple(one.ids[:100]) for one in made]
    assert len(set(begins)) < 4
    assert all(one.trimmed.prefix for one in made)


def test_no_room_at_all() -> None:
    with pytest.raises(ContextExceeded, match="room for 0 tokens"):
        found(*QWEN).prompt("P", "S", limit=3)


def test_a_prefix_may_be_token_ids() -> None:
    assert found(*QWEN).prompt([80], "S") == found(*QWEN).prompt("P", "S")
