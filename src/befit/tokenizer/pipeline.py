"""The steps of a Hugging Face tokenizer.json around the vocabulary: how text is normalised, split and merged.

`tokenizer.huggingface.pipeline` holds them as JSON, in the form that the `tokenizers` library reads and writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from befit.errors import CorruptFile
from befit.tokenizer.vocabulary import Vocabulary

PIPELINE = "tokenizer.huggingface.pipeline"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What happens to a text before its words are merged, how they are, and how added tokens are matched."""

    normalizer: normalizers.Normalizer | None
    pre_tokenizer: pre_tokenizers.PreTokenizer | None
    added: Mapping[str, AddedToken]
    model: Mapping[str, Any]

    def bpe(self, vocabulary: Vocabulary, merges: list[str]) -> models.BPE:
        """The merging model of a vocabulary. `merges` are pairs of pieces with a space between."""
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
        unknown = self.model.get("unk_token")
        try:
            return models.BPE(
                vocab=vocabulary.by_spelling,
                merges=pairs,
                unk_token=unknown if unknown in vocabulary.by_spelling else None,
                fuse_unk=bool(self.model.get("fuse_unk")),
                byte_fallback=bool(self.model.get("byte_fallback")),
                ignore_merges=bool(self.model.get("ignore_merges")),
            )
        except Exception as error:  # the library raises its own, untyped
            raise CorruptFile(f"The tokeniser's merges do not fit its vocabulary: {error}") from error


def read_pipeline(metadata: Mapping[str, Any]) -> Pipeline:
    """The pipeline in a model's metadata. Raises CorruptFile for one that the library cannot build."""
    try:
        found = json.loads(metadata[PIPELINE])
        steps = {"normalizer": found["normalizer"], "pre_tokenizer": found["pre_tokenizer"]}
        bare = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}, **steps}
        library = Library.from_str(json.dumps(bare))
        added = {each["content"]: AddedToken(**each) for each in found["added_tokens"]}
        return Pipeline(library.normalizer, library.pre_tokenizer, added, dict(found["model"]))
    except Exception as error:  # the library raises its own, untyped
        raise CorruptFile(f"The tokeniser's way of splitting text cannot be used: {error}") from error
