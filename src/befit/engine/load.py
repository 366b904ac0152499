"""From a model's name or path to everything an engine needs, in memory and ready to serve."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from befit.backends.base import Backend
from befit.config import SCORE_ROWS, EngineConfig, EngineOptions
from befit.engine.grammar import Grammars
from befit.errors import DoesNotFit
from befit.models.program import Program
from befit.tokenizer.base import Tokenizer
from befit.weights.tensor import DenseTensor, PackedTensor, Tensor, Weight

if TYPE_CHECKING:
    from befit.plan.fit import Budget
    from befit.plan.memory import Model
    from befit.prepared.plan import Target as Backends
    from befit.prepared.read import Build
    from befit.quantize.recipe import Target
    from befit.store.hub_fetch import Wanted

log = logging.getLogger("befit.engine")


@dataclass(slots=True)
class LoadedDraft:
    """A draft model in memory. Its KV pool has a page for each of the target's."""

    name: str
    program: Program
    backend: Backend
    release: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Free weights and KV pool."""
        self.backend.close()
        self.release()


@dataclass(slots=True)
class LoadedModel:
    """A model ready to serve. `close` frees the backend, then lets go of the file. parameters: how many weights there
    are; quantisation: the format that most of them have. memory: bytes it takes at most, beside what any process does.
    """

    name: str
    path: Path
    metadata: Mapping[str, Any]
    program: Program
    tokenizer: Tokenizer
    backend: Backend
    config: EngineConfig
    release: Callable[[], None] = lambda: None
    draft: LoadedDraft | None = None
    parameters: int = 0
    quantisation: str = ""
    memory: int = 0
    grammars: Grammars = field(init=False)

    def __post_init__(self) -> None:
        self.grammars = Grammars(self.tokenizer, self.program.vocab_size)

    def close(self) -> None:
        """Free weights and KV pool. The model is not used afterwards."""
        self.backend.close()
        self.release()
        if self.draft is not None:
            self.draft.close()


@dataclass(slots=True)
class _Opened:
    """A GGUF file, a Hugging Face folder or a built folder: described, with weights that are not read yet.

    notes: what of the weights is not taken over exactly.
    """

    name: str
    path: Path
    metadata: Mapping[str, Any]
    program: Program
    weights: Mapping[str, Weight]
    release: Callable[[Tensor], None]
    close: Callable[[], None]
    notes: Sequence[str] = ()

    @property
    def facts(self) -> Model:
        """What its memory is worked out from."""
        from befit.plan.opened import of_weights

        return of_weights(self.name, str(self.path), self.program, self.weights)


def load_model(
    ref: str,
    options: EngineOptions,
    *,
    progress: bool = False,
    report: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
    alone: bool = True,
    shorten: bool = True,
) -> LoadedModel:
    """Load the model that `ref`, a name or the path of a GGUF file, of a Hugging Face folder or of a built
    folder, stands for.

    progress shows a download's progress. `report` gets the resolved settings as a short table (they are logged too);
    `on_progress` gets (done, total) while weights are prepared, on another thread. `meanwhile` is called while they
    are: the place for what a program has to do besides, such as importing. `alone`: no other model is to be loaded
    beside it, so that its KV cache may have all of `options.memory`; `shorten`: a shorter context than usual may make
    it fit. Raises ModelNotFound, DownloadError, CorruptFile, UnsupportedModel, BuildMismatch, ConfigError or
    DoesNotFit, the last two before any weight is read.
    """
    # Imported here so that commands that load no model do not pay for it.
    from befit import tokenizer
    from befit.engine.resolve import machine_of, table

    opened = _open(ref, options, progress)
    draft: _Opened | None = None
    given_up = threading.Event()

    def proceed(done: int, total: int) -> None:
        if given_up.is_set():
            raise InterruptedError
        if on_progress is not None:
            on_progress(done, total)

    try:
        if options.draft is not None:
            from befit.engine.speculation.vocabulary import check_vocabulary

            draft = _open(options.draft, _beside(opened, options), progress)
            check_vocabulary(draft.name, opened.metadata, draft.metadata)
        config, budget, facts, notes = _settled(opened, options, draft, alone=alone, shorten=shorten)
        settings = table(config, budget, facts, notes)
        log.info("Settings:\n%s", settings)
        if report is not None:
            report(settings)
        # Preparing weights hardly needs the GIL; building the tokeniser, and importing, need little else.
        with _no_collections(), ThreadPoolExecutor(1, thread_name_prefix="befit-weights") as pool:
            pending = pool.submit(_create, opened, config, proceed)
            try:
                tokens = tokenizer.load(opened.metadata)
                if meanwhile is not None:
                    meanwhile()
                backend = pending.result()
            except BaseException:
                given_up.set()
                raise
        loaded = LoadedModel(
            opened.name, opened.path, opened.metadata, opened.program, tokens, backend, config, release=opened.close
        )
        loaded.memory = budget.total - budget.reserve - machine_of(options).overhead
        loaded.parameters, loaded.quantisation = _counted(opened.weights.values())
        if draft is not None:
            loaded.draft = LoadedDraft(draft.name, draft.program, _create(draft, config), release=draft.close)
    except BaseException:
        opened.close()
        if draft is not None:
            draft.close()
        raise
    return loaded


def settle(ref: str, options: EngineOptions) -> tuple[EngineConfig, Budget, Model]:
    """The settings that `load_model` would use, what they take of memory, and the model, without reading weights.

    A model that is not stored is fetched. Raises what `load_model` raises.
    """
    with ExitStack() as stack:
        opened = _open(ref, options, progress=False)
        stack.callback(opened.close)
        draft = None
        if options.draft is not None:
            draft = _open(options.draft, _beside(opened, options), progress=False)
            stack.callback(draft.close)
        return _settled(opened, options, draft)[:3]


def _settled(
    opened: _Opened, options: EngineOptions, draft: _Opened | None, *, alone: bool = True, shorten: bool = True
) -> tuple[EngineConfig, Budget, Model, list[str]]:
    """Choose what the weights are rounded to, and everything that follows from it; and notes on the weights."""
    from befit.engine.quantise import choose
    from befit.engine.resolve import resolve

    packed = _packed_for(opened)
    if options.backend == "auto" and packed:
        options = replace(options, backend=packed)

    beside = draft.facts if draft is not None else None

    def facts_of(weights: Mapping[str, Weight]) -> Model:
        return replace(replace(opened, weights=weights).facts, draft=beside)

    def settings_of(weights: Mapping[str, Weight]) -> EngineConfig:
        return resolve(options, facts_of(weights), alone=alone, shorten=shorten, split=False)[0]

    try:
        choice = choose(options, opened.program, opened.weights, opened.release, settings_of)
    except DoesNotFit:  # with the fewest bits, some of it may still stay on the card
        fewest = replace(options, quant="w4")
        choice = choose(fewest, opened.program, opened.weights, opened.release, settings_of)
    opened.weights = choice.weights
    facts = facts_of(opened.weights)
    config, budget = resolve(options, facts, alone=alone, shorten=shorten, split=not packed)
    return config, budget, facts, [*opened.notes, *([choice.why] if choice.why else [])]


def _packed_for(opened: _Opened) -> str | None:
    """The backend that a built folder is for; None for what is no built folder."""
    return next((weight.backend for weight in opened.weights.values() if isinstance(weight, PackedTensor)), None)


def _beside(opened: _Opened, options: EngineOptions) -> EngineOptions:
    """The options for a draft model: it runs on the backend that the model does."""
    from befit.engine.resolve import auto_backend

    if options.backend != "auto":
        return options
    return replace(options, backend=_packed_for(opened) or auto_backend(options))


def _counted(weights: Iterable[Weight]) -> tuple[int, str]:
    """The number of all weights, and the format of most of them."""
    counts: Counter[str] = Counter()
    for weight in weights:
        name = weight.dtype if isinstance(weight, DenseTensor) else _format_name(weight.format)
        counts[name] += prod(weight.shape)
    return counts.total(), counts.most_common(1)[0][0].upper() if counts else ""


def _format_name(form: Any) -> str:
    return form.partition("/")[0] if isinstance(form, str) else str(form.name)


def _create(opened: _Opened, config: EngineConfig, on_progress: Callable[[int, int], None] | None = None) -> Backend:
    """Read the weights into a backend."""
    from befit import backends

    return backends.create(
        cast(Literal["native", "reference", "cuda"], config.backend),
        opened.program,
        opened.weights,
        block_size=config.block_size,
        n_blocks=config.n_blocks,
        threads=config.threads,
        kv_dtype=config.kv_dtype,
        card_layers=config.card_layers,
        max_tokens=config.token_budget,
        max_rows=config.max_seqs + SCORE_ROWS,
        on_progress=on_progress,
        release=opened.release,
    )


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without cyclic garbage collection, which would walk a vocabulary's hundreds of thousands of pairs again and again
    as they are made, and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def fetched(ref: str, options: EngineOptions, *, progress: bool) -> tuple[Path, str]:
    """The path of a model, fetched if it is not here, and the name that clients use. Raises what `load_model` does for
    a model that is not there or is not worth a download."""
    from befit import store

    path = _path(ref, options, progress)
    if store.is_build(str(path)):
        from befit.errors import BuildMismatch
        from befit.prepared.manifest import read_manifest

        try:
            return path, read_manifest(path).name
        except BuildMismatch:  # it is built anew when it is loaded, or refused then
            pass
    return path, served_name(ref, path)


def _path(ref: str, options: EngineOptions, progress: bool) -> Path:
    from befit import store

    def admit(wanted: Wanted) -> None:
        from befit.plan.admit import check

        check(wanted, options)  # before it is fetched: does it fit?

    return store.resolve(ref, progress=progress, admit=admit)


def _open(ref: str, options: EngineOptions, progress: bool) -> _Opened:
    from befit import store

    path = _path(ref, options, progress)
    if store.is_build(str(path)):
        return _open_build(path, options, progress)
    return _open_file(path, served_name(ref, path))


def _open_file(path: Path, name: str) -> _Opened:
    """A GGUF file or a Hugging Face folder."""
    from befit import models
    from befit.weights.checkpoint import open_checkpoint

    file = open_checkpoint(path)
    try:
        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        weights = {key: file.tensors[key] for key in program.weight_names()}
    except BaseException:
        file.close()
        raise
    return _Opened(name, file.path, file.metadata, program, weights, file.release, file.close, file.notes)


def _open_build(path: Path, options: EngineOptions, progress: bool) -> _Opened:
    """A built folder, built anew where it does not match; or, where that cannot be, its source file."""
    from befit.errors import BefitError, BuildMismatch
    from befit.prepared.manifest import read_manifest
    from befit.prepared.read import open_build

    backend = _wanted(path, options)
    try:
        build = open_build(path, backend=backend)
    except BuildMismatch as mismatch:
        source = Path(mismatch.source) if mismatch.source else None
        if source is None or not source.is_file():
            where = f"its source, {source}, is not there" if source else "its source is not known"
            raise BuildMismatch(
                f"{mismatch.message}; {where}, so it cannot be built anew here: "
                f"run befit build MODEL -o {path} --force{' --backend cuda' if backend == 'cuda' else ''} with the "
                "model's GGUF file or folder"
            ) from mismatch
        log.warning("%s; building it anew from %s", mismatch.message, source)
        made = ""
        try:
            manifest = read_manifest(path)
            name, made = manifest.name, manifest.quantised
        except BuildMismatch:
            name = source.stem if source.name != "config.json" else source.parent.name
        try:
            build = _rebuild(source, path, name, made, backend, options, progress)
        except (BefitError, OSError) as failure:
            log.warning("Building %s anew failed (%s); loading %s itself", path, failure, source)
            return _open_file(source, name)
    return _Opened(
        build.manifest.name,
        path,
        build.metadata,
        build.program,
        build.weights,
        release=lambda tensor: None,
        close=build.close,
    )


def _wanted(path: Path, options: EngineOptions) -> Backends:
    """The backend that a built folder is to be loaded by: the one that the user says, else its own where this machine
    can run that. The reference, which no folder is for, gets its own too and refuses it."""
    from befit.backends.cuda.device import choose_target
    from befit.engine.resolve import auto_backend
    from befit.errors import BuildMismatch
    from befit.prepared.manifest import read_manifest

    if options.backend == "cuda":
        choose_target()  # a folder is not built anew for a card that is not there
        return "cuda"
    if options.backend == "native":
        return "native"
    try:
        made = read_manifest(path).backend
    except BuildMismatch:  # nobody can say what it was for
        return "native"
    runs = made == "cuda" and (options.backend == "reference" or auto_backend(options) == "cuda")
    return "cuda" if runs else "native"


def _rebuild(
    source: Path, path: Path, name: str, made: str, backend: Backends, options: EngineOptions, progress: bool
) -> Build:
    from befit.plan.hardware import physical_cores
    from befit.prepared.read import open_build
    from befit.prepared.write import build

    threads = options.threads or physical_cores()
    if made:
        from befit.quantize.convert import convert

        to, _, blocks = made.partition("/")
        convert(
            source,
            path,
            to=cast("Target", to),
            name=name,
            blocks=blocks,
            threads=threads,
            force=True,
            progress=progress,
            measured=False,
            backend=backend,
        )
    else:
        build(source, path, name=name, threads=threads, force=True, progress=progress, backend=backend)
    return open_build(path)


def served_name(ref: str, path: Path) -> str:
    """The name that clients use: the catalogue's, a reference without its scheme, a folder's, or a file's name without
    folder and ending."""
    from befit import store

    if store.is_reference(ref):
        return ref.partition(":")[2]
    is_path = os.sep in ref or ref.endswith(".gguf") or Path(ref).exists()
    name = path.resolve().name if path.is_dir() else path.stem
    return name if is_path else ref
