"""Finding and loading a draft model, and refusing one whose token ids mean something else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from befit.backends.base import Backend
from befit.config import EngineConfig
from befit.errors import ConfigError
from befit.models.program import Program
from befit.tokenizer.vocabulary import TokenType, number_array, string_array


@dataclass(slots=True)
class LoadedDraft:
    """A draft model in memory. Its KV pool has a page for each of the target's."""

    name: str
    program: Program
    backend: Backend
    release: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.perf_counter

    def close(self) -> None:
        """Free weights and KV pool."""
        self.backend.close()
        self.release()


class DraftFile:
    """A draft model's open file, checked against the target, but no weight of it read yet."""

    def __init__(self, ref: str, target: Mapping[str, Any], *, progress: bool) -> None:
        from befit import models, store
        from befit.weights.gguf import GGUFFile

        self.name = ref
        self._file = file = GGUFFile.open(store.resolve(ref, progress=progress))
        try:
            check_vocabulary(ref, target, file.metadata)
            self.program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
            self._weights = {key: file.tensors[key] for key in self.program.weight_names()}
        except BaseException:
            self.close()
            raise
        self.weight_bytes = sum(tensor.nbytes for tensor in self._weights.values())

    def load(self, config: EngineConfig) -> LoadedDraft:
        """Read the weights, for the backend and sizes of the target."""
        from befit import backends

        backend = backends.create(
            cast(Literal["native", "reference"], config.backend),
            self.program,
            self._weights,
            block_size=config.block_size,
            n_blocks=config.n_blocks,
            threads=config.threads,
            activation_bits=config.activation_bits,
            max_tokens=config.token_budget,
            max_rows=config.max_seqs,
            release=self._file.release,
        )
        return LoadedDraft(self.name, self.program, backend, release=self.close)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def check_vocabulary(ref: str, target: Mapping[str, Any], draft: Mapping[str, Any]) -> None:
    """Raise ConfigError unless each token id is spelled alike in both models' metadata.

    One vocabulary may be longer by unused tokens, with which some models are padded.
    """
    ours, theirs = string_array(target, "tokens"), string_array(draft, "tokens")
    for token, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            raise ConfigError(
                f"The draft model {ref} has another vocabulary: token {token} is {other[:80]!r} there and "
                f"{mine[:80]!r} in the model; choose a smaller model of the same family as draft."
            )
    shared = min(len(ours), len(theirs))
    metadata, tokens = (target, ours) if len(ours) > shared else (draft, theirs)
    types = number_array(metadata, "token_type", len(tokens))
    if len(tokens) > shared and (types is None or (types[shared:] != TokenType.UNUSED).any()):
        raise ConfigError(
            f"The draft model {ref} has another vocabulary: {len(theirs)} tokens, and the model has {len(ours)}; "
            "choose a smaller model of the same family as draft."
        )
