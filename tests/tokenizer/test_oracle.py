"""Ids equal those of the original tokenisers on the Python standard library's sources and on mixed-script text.

BEFIT_TEST_TOKENIZERS names a folder with original files, called NAME.PRE.json (tokenizer.json of a tokeniser that
GGUF files name PRE; "spm" for a SentencePiece one), NAME.tekken (tekken.json, read by tiktoken) and NAME.model
(SentencePiece, read by its own library).
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import conversion
import pytest
from samples import SAMPLES, mixed_text

from befit import tokenizer

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(3600)]


def originals() -> list[Path]:
    folder = os.environ.get("BEFIT_TEST_TOKENIZERS")
    return sorted(path for path in Path(folder).iterdir() if path.is_file()) if folder else []


def texts() -> Iterator[tuple[str, str]]:
    for at, sample in enumerate(SAMPLES):
        yield f"sample {at}", sample
    yield "all samples", mixed_text()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            yield str(path.relative_to(root)), path.read_bytes().decode("utf-8", "replace")


def oracle(path: Path) -> tuple[Callable[[str], list[int]], dict[str, object], bool]:
    """The original's encoding without BOS, its metadata as GGUF, and whether control tokens are parsed."""
    if path.suffix == ".model":
        sentencepiece = pytest.importorskip("sentencepiece")
        model = sentencepiece.SentencePieceProcessor(str(path))
        return model.encode, conversion.of_sentencepiece(path), False
    if path.suffix == ".tekken":
        tiktoken = pytest.importorskip("tiktoken")
        ranks, pattern, specials = conversion.tekken_ranks(path)
        encoding = tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        return (
            lambda text: [specials + i for i in encoding.encode(text, disallowed_special=())],
            conversion.of_tekken(path),
            False,
        )
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(path))
    _, pre, _ = path.name.rsplit(".", 2)
    return (
        lambda text: library.encode(text, add_special_tokens=False).ids,
        conversion.of_tokenizer_json(path, pre),
        True,
    )


@pytest.mark.skipif(not originals(), reason="BEFIT_TEST_TOKENIZERS does not name a folder of original tokenisers")
@pytest.mark.parametrize("path", originals(), ids=lambda path: path.name)
def test_ids_equal_the_originals(path: Path, record_property: Callable[[str, object], None]) -> None:
    encode, metadata, parse = oracle(path)
    ours = tokenizer.load(metadata)
    files = tokens = 0
    wrong: list[str] = []
    for name, text in texts():
        expected = encode(text)
        got = ours.encode(text, parse_special=parse)  # the metadata say not to add BOS
        files += 1
        tokens += len(expected)
        if got != expected:
            at = next((i for i, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), -1)
            wrong.append(f"{name} at {at}: {got[at - 2 : at + 6]} for {expected[at - 2 : at + 6]}")
    print(f"\n{path.name}: {files} texts, {tokens} tokens, {len(wrong)} texts differ")
    record_property("tokens", tokens)
    assert not wrong, "\n".join(wrong[:20])
