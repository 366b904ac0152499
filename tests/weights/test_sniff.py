"""Files that are something else say what they are."""

from __future__ import annotations

import pytest

from befit.weights.sniff import looks_like


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        ((200).to_bytes(8, "little") + b'{"__metadata__":{}}', "safetensors"),
        (b"\r\n <!DOCTYPE html><html>", "web page"),
        (b"<HTML><head>", "web page"),
        (b"<?xml version='1.0'?><Error>", "XML"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"tjgg\x03\0\0\0", "GGJT"),
        (b"\x80\x02}q\x00", "pickle"),
        (bytes(257) + b"ustar\x0000", "tar"),
        (bytes(512), "zero bytes"),
    ],
)
def test_other_files_are_recognised(head: bytes, word: str) -> None:
    assert word in (looks_like(head) or "")


@pytest.mark.parametrize("head", [b"", b"GG", b"GGUF\x03\0\0\0", b"hello, world"])
def test_nothing_is_made_up(head: bytes) -> None:
    assert looks_like(head) is None
