"""From a model's name or path to everything an engine needs, in memory and ready to serve."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from befit.backends.base import Backend
from befit.config import EngineConfig, EngineOptions
from befit.engine.speculation.load import DraftFile, LoadedDraft
from befit.models.program import Program
from befit.tokenizer.base import Tokenizer

log = logging.getLogger("befit.engine")


@dataclass(slots=True)
class LoadedModel:
    """A model ready to serve. `close` frees the backend, then lets go of the file."""

    name: str
    path: Path
    metadata: Mapping[str, Any]
    program: Program
    tokenizer: Tokenizer
    backend: Backend
    config: EngineConfig
    release: Callable[[], None] = lambda: None
    draft: LoadedDraft | None = None

    def close(self) -> None:
        """Free weights and KV pool. The model is not used afterwards."""
        self.backend.close()
        self.release()
        if self.draft is not None:
            self.draft.close()


def load_model(
    ref: str,
    options: EngineOptions,
    *,
    progress: bool = False,
    report: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LoadedModel:
    """Load the model that `ref`, a name or the path of a GGUF file, stands for.

    progress shows a download's progress. `report` gets the resolved settings as a short table (they are logged too);
    `on_progress` gets (done, total) while weights are prepared. Raises ModelNotFound, DownloadError, CorruptFile,
    UnsupportedModel, ConfigError or DoesNotFit, the last two before any weight is read.
    """
    # Imported here so that commands that load no model do not pay for it.
    from befit import backends, models, store, tokenizer
    from befit.engine.core import SCORE_ROWS
    from befit.engine.resolve import resolve, table
    from befit.weights.gguf import GGUFFile

    path = store.resolve(ref, progress=progress)
    name = _served_name(ref, path)
    file = GGUFFile.open(path)
    draft: DraftFile | None = None
    try:
        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        weights = {key: file.tensors[key] for key in program.weight_names()}
        weight_bytes = sum(tensor.nbytes for tensor in weights.values())
        if options.draft is not None:
            draft = DraftFile(options.draft, file.metadata, progress=progress)
            weight_bytes += draft.weight_bytes
        drafts = draft.program if draft is not None else None
        config = resolve(options, program, weight_bytes=weight_bytes, draft=drafts)
        settings = table(config, program, name=name, weight_bytes=weight_bytes, draft=drafts)
        log.info("Settings:\n%s", settings)
        if report is not None:
            report(settings)
        # Building the tokeniser and repacking weights take about as long as each other, and hardly need the GIL.
        with ThreadPoolExecutor(1, thread_name_prefix="befit-tokenizer") as pool:
            pending = pool.submit(tokenizer.load, file.metadata)
            backend = backends.create(
                cast(Literal["native", "reference"], config.backend),
                program,
                weights,
                block_size=config.block_size,
                n_blocks=config.n_blocks,
                threads=config.threads,
                activation_bits=config.activation_bits,
                max_tokens=config.token_budget,
                max_rows=config.max_seqs + SCORE_ROWS,
                on_progress=on_progress,
                release=file.release,
            )
            tokens = pending.result()
        loaded = LoadedModel(name, path, file.metadata, program, tokens, backend, config, release=file.close)
        if draft is not None:
            loaded.draft = draft.load(config)
    except BaseException:
        file.close()
        if draft is not None:
            draft.close()
        raise
    return loaded


def _served_name(ref: str, path: Path) -> str:
    """The name that clients use: the catalogue's, or a file's name without its folder and ending."""
    is_path = os.sep in ref or ref.endswith(".gguf") or Path(ref).exists()
    return path.stem if is_path else ref
