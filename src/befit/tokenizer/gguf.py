"""The tokeniser that a GGUF file describes: encoding by the `tokenizers` library, decoding by a table of bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from befit.errors import CorruptFile, InvalidRequest
from befit.tokenizer import bytelevel, sentencepiece
from befit.tokenizer.pipeline import PIPELINE, Pipeline, read_pipeline
from befit.tokenizer.pretokenizers import splitting
from befit.tokenizer.vocabulary import (
    TokenType,
    byte_value,
    flag,
    number_array,
    read_vocabulary,
    string_array,
)

# One text at a time gains nothing from threads, and the library would start one for every core.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class GGUFTokenizer:
    """See `befit.tokenizer.base.Tokenizer`; what is particular to files:

    - User-defined tokens are matched in the raw text, longest first, whether or not parse_special is set: they are
      part of how the model reads text (Gemma's runs of newlines, Qwen's `<tool_call>`). Control tokens are matched
      only with parse_special.
    - add_special puts BOS in front, unless the text already begins with it, and EOS at the end where the file asks.
    - SentencePiece models with a space prefix put a space before a text, and before each part of it that follows a
      special token. Mistral's instruct vocabularies, the ones with a control token `[INST]`, put it only before a
      text that begins with none (and not with add_special and parse_special both off: such a text is a part cut out
      of a larger one). `decode` drops that first space where ids begin with BOS and text, which makes them a whole
      text; other ids continue one, and keep it.
    - Ids that the vocabulary does not have (rows that pad the embedding) and unused tokens add no text.
    - A model from a Hugging Face folder brings its own way of splitting and normalising text (see `pipeline`), which is
      run as it is.
    - Qwen's tokenisers bring text to Unicode normal form C, so decoding gives that form back.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata)
        self._vocabulary = vocabulary
        self._tokens = vocabulary.tokens
        self._types: bytes = vocabulary.types.tobytes()
        self._bytes: list[bytes | None] = [None] * len(vocabulary.tokens)
        self._sentencepiece = vocabulary.kind == "llama"
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.end_ids
        self.control_tokens: Mapping[str, int] = {
            spelling: token
            for token in vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN)
            if (spelling := vocabulary.tokens[token])
        }

        normalizer: normalizers.Normalizer | None
        pre_tokenizer: pre_tokenizers.PreTokenizer | None
        added = [vocabulary.tokens[i] for i in vocabulary.of_type(TokenType.USER_DEFINED) if vocabulary.tokens[i]]
        control = list(self.control_tokens)
        pipeline: Pipeline | None = None
        if PIPELINE in metadata:
            pipeline = read_pipeline(metadata)
            model = pipeline.bpe(vocabulary, string_array(metadata, "merges"))
            normalizer, pre_tokenizer = pipeline.normalizer, pipeline.pre_tokenizer
            space_prefix, once, adds_bos = flag(metadata, "add_space_prefix", False), False, False
        elif self._sentencepiece:
            scores = number_array(metadata, "scores", self.vocab_size)
            if scores is None:
                raise CorruptFile("tokenizer.ggml.scores is missing: a SentencePiece vocabulary cannot do without.")
            model = sentencepiece.bpe(vocabulary, scores)
            space_prefix = flag(metadata, "add_space_prefix", True)
            once = "[INST]" in control
            steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", sentencepiece.SPACE)]
            if space_prefix and not once:
                steps.insert(0, normalizers.Prepend(sentencepiece.SPACE))
            normalizer = normalizers.Sequence(steps)
            pre_tokenizer = None
            adds_bos = True
            runs = sentencepiece.space_runs(vocabulary)
            added = [runs.get(spelling, spelling) for spelling in added]
        else:
            way = splitting(metadata, vocabulary.by_spelling)
            model = bytelevel.bpe(vocabulary, string_array(metadata, "merges"), ignore_merges=way.ignore_merges)
            space_prefix = once = False
            normalizer = way.normalizer()
            pre_tokenizer = way.pre_tokenizer()
            adds_bos = way.adds_bos
        self._space_prefix = space_prefix
        self._prefix_unless = tuple(added + control) if space_prefix and once else None

        def library(spellings: list[str]) -> Library:
            made = Library(model)
            if normalizer is not None:
                made.normalizer = normalizer
            if pre_tokenizer is not None:
                made.pre_tokenizer = pre_tokenizer
            made.add_tokens([_added(spelling, pipeline) for spelling in spellings])
            return made

        self._parsing = library(added + control)
        self._plain = library(added)

        self.adds_bos = flag(metadata, "add_bos_token", adds_bos and self.bos_id is not None)
        self._adds_eos = flag(metadata, "add_eos_token", False)
        if self.adds_bos and self.bos_id is None:
            raise CorruptFile("tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing.")
        if self._adds_eos and vocabulary.eos_id is None:
            raise CorruptFile("tokenizer.ggml.add_eos_token is true, but tokenizer.ggml.eos_token_id is missing.")

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`. Raises InvalidRequest for a text with half a surrogate pair, which is no Unicode."""
        library = self._parsing if parse_special else self._plain
        prefix = ""
        if self._prefix_unless is not None and text and (add_special or parse_special):
            prefix = "" if parse_special and text.startswith(self._prefix_unless) else " "
        try:
            # The form for several texts finds no offsets, which takes a tenth to a half less time.
            ids: list[int] = library.encode_batch_fast([prefix + text], add_special_tokens=False)[0].ids
        except (UnicodeEncodeError, TypeError):
            at = next((at for at, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
            if at is None:
                raise
            raise InvalidRequest(
                f"The text is not valid Unicode: character {at} is U+{ord(text[at]):04X}, half of a surrogate pair."
            ) from None
        if add_special:
            if self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
                ids.insert(0, self.bos_id)
            if self._adds_eos and self._vocabulary.eos_id is not None:
                ids.append(self._vocabulary.eos_id)
        return ids

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD."""
        data = b"".join([self.token_bytes(token, skip_special=skip_special) for token in ids])
        if self._space_prefix and len(ids) > 1 and ids[0] == self.bos_id and not self.is_special(ids[1]):
            start = len(self.token_bytes(ids[0], skip_special=skip_special))
            data = data[:start] + data[start:].removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """The bytes that one token adds to a text (empty for control tokens when skip_special)."""
        if not 0 <= token < self.vocab_size or (skip_special and self._types[token] in _SPECIAL):
            return b""
        data = self._bytes[token]
        if data is None:
            data = self._bytes[token] = self._spelled(token)
        return data

    def _spelled(self, token: int) -> bytes:
        spelling, kind = self._tokens[token], self._types[token]
        if kind == TokenType.UNUSED:
            return b""
        if kind in _SPECIAL:
            return spelling.encode()
        if self._sentencepiece:
            byte = byte_value(spelling) if kind == TokenType.BYTE else None
            return bytes([byte]) if byte is not None else spelling.replace(sentencepiece.SPACE, " ").encode()
        return bytelevel.spelled_bytes(spelling) if kind == TokenType.NORMAL else spelling.encode()

    def token_text(self, token: int) -> str:
        """The token's own spelling, for listings: its bytes as text, control tokens as written."""
        return self.token_bytes(token, skip_special=False).decode("utf-8", "replace")

    def token_id(self, spelling: str) -> int | None:
        """The id of a token by its exact spelling in the vocabulary, or None."""
        return self._vocabulary.by_spelling.get(spelling)

    def is_special(self, token: int) -> bool:
        """Whether the token is a control token (the unknown token is one too)."""
        return 0 <= token < self.vocab_size and self._types[token] in _SPECIAL


def _added(spelling: str, pipeline: Pipeline | None) -> AddedToken:
    found = pipeline.added.get(spelling) if pipeline else None
    return found or AddedToken(spelling, normalized=False)


_SPECIAL = frozenset({int(TokenType.CONTROL), int(TokenType.UNKNOWN)})
