"""A tiny model with random weights whose tokens are bytes: it writes anything, so all sense is the grammar's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from befit import backends
from befit.config import EngineConfig
from befit.engine.load import LoadedModel
from support.tiny import tiny_model

END, CONTROL = 256, 257
LONGER = [b'": ', b"{\n", b"true", b'", "', "é".encode(), b"<call>"]
PIECES = [bytes([byte]) for byte in range(256)] + [b"<end>", b"<control>"] + LONGER
VOCAB = len(PIECES) + 30  # rows of the embedding without a token


class ByteTokenizer:
    """Every byte is a token, and some longer pieces are; END ends, CONTROL is a control token."""

    vocab_size = len(PIECES)
    bos_id = None
    eos_ids = frozenset({END})
    adds_bos = False

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return b"".join(self.token_bytes(token, skip_special=skip_special) for token in ids).decode("utf-8", "replace")

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        if token >= len(PIECES) or (skip_special and self.is_special(token)):
            return b""
        return PIECES[token]

    def token_text(self, token: int) -> str:
        return self.token_bytes(token, skip_special=False).decode("utf-8", "replace")

    def token_id(self, spelling: str) -> int | None:
        return PIECES.index(spelling.encode()) if spelling.encode() in PIECES else None

    def is_special(self, token: int) -> bool:
        return token in (END, CONTROL)


def byte_model(backend: str = "reference", **changes: Any) -> LoadedModel:
    """A LLaMA of two layers, over either backend."""
    tiny = tiny_model("llama", vocab=VOCAB, context=2048)
    settings: dict[str, Any] = {
        "ctx": 512,
        "max_seqs": 8,
        "token_budget": 128,
        "block_size": 16,
        "n_blocks": 256,
        "threads": 2,
        "backend": backend,
        "prefix_cache": True,
        "max_queue": 100,
        "kv_dtype": "f32" if backend == "reference" else "f16",
        "speculation": "off",
        "draft": None,
    }
    config = EngineConfig(**{**settings, **changes})
    loaded = backends.create(
        backend,
        tiny.program,
        tiny.tensors,
        block_size=config.block_size,
        n_blocks=config.n_blocks,
        threads=config.threads,
        max_tokens=config.token_budget,
        max_rows=config.max_seqs + 64,
    )
    tokenizer: Any = ByteTokenizer()
    return LoadedModel("bytes", Path("bytes.gguf"), {}, tiny.program, tokenizer, loaded, config)
