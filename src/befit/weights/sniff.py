"""What a file that is not what its name says looks like, by its first bytes."""

from __future__ import annotations

HEAD_BYTES = 512
"""How many bytes of a file `looks_like` wants to see."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to; run `git lfs pull` where it came from"),
    (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint; befit needs the model as GGUF"),
    (b"\x1f\x8b", "gzip-compressed; decompress it first"),
    (b"(\xb5/\xfd", "zstd-compressed; decompress it first"),
    (b"\xfd7zXZ", "xz-compressed; decompress it first"),
    (b"BZh", "bzip2-compressed; decompress it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (b"\x80\x02", "a Python pickle (an old PyTorch checkpoint); befit needs the model as GGUF"),
    (b"\x89HDF", "an HDF5 file; befit needs the model as GGUF"),
    (b"\x7fELF", "a program"),
    # Before GGUF, the magic was a 32-bit number stored little-endian: "ggml" reads backwards.
    (b"lmgg", "an old GGML file from before GGUF; convert the original model again"),
    (b"fmgg", "an old GGMF file from before GGUF; convert the original model again"),
    (b"tjgg", "an old GGJT file from before GGUF; convert the original model again"),
    (b"algg", "an old GGLA adapter from before GGUF; convert the original adapter again"),
    (b"GGLA", "an old GGLA adapter from before GGUF; convert the original adapter again"),
)


def looks_like(head: bytes) -> str | None:
    """What the first bytes of a file (HEAD_BYTES are enough) say it is, with what to do; None when they say nothing."""
    for start, meaning in _STARTS:
        if head.startswith(start):
            return meaning
    if head[8:].startswith(b'{"') and int.from_bytes(head[:8], "little") < 1 << 40:
        return "a safetensors file; name the folder that it is in, with its config.json and tokenizer.json"
    if head[257:].startswith(b"ustar"):
        return "a tar archive; unpack it first"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, so the download was redirected or refused; fetch the file itself"
    if text.startswith(b"<?xml"):
        return "an XML document, perhaps a server's error message; fetch the file again"
    if text.startswith((b"{", b"[")):
        return "JSON text, perhaps a server's error message; fetch the file again"
    if head and not head.strip(b"\0"):
        return "empty space (zero bytes), so the download was reserved on disk and never finished; fetch it again"
    return None
