"""`befit quantize`: a model rounded to fewer bits, as a GGUF file or a built folder, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from befit import disk, models, tokenizer
from befit.errors import ConfigError, DoesNotFit
from befit.models.program import Linear, Program
from befit.plan.hardware import available_memory
from befit.prepared.bar import bar
from befit.prepared.plan import Target as Backend
from befit.prepared.read import open_build
from befit.prepared.write import build_from, check_target, workshop
from befit.quantize import perplexity as measure
from befit.quantize.awq import Scales, calibrate
from befit.quantize.gguf_metadata import metadata_for_gguf, row_order
from befit.quantize.gguf_write import tensor_bytes, write_gguf
from befit.quantize.recipe import TARGETS, Quantised, Target, formats
from befit.tokenizer.base import Tokenizer
from befit.weights.checkpoint import Checkpoint, open_checkpoint
from befit.weights.tensor import QuantTensor, Tensor, Weight

CALIBRATION_WINDOW = 512
WORKING_MEMORY = 300 * 10**6
"""Bytes beside the weights that measuring takes."""


@dataclass(slots=True)
class Report:
    """What became of a model. Sizes are bytes of tensors, before and after; formats counts tensors.

    before, after: perplexity on the built-in evaluation text, None where it was not measured. seconds: without that.
    notes: what is worth knowing.
    """

    target: Path
    to: Target
    source_bytes: int
    bytes: int
    formats: dict[str, int]
    seconds: float
    before: float | None = None
    after: float | None = None
    notes: list[str] = field(default_factory=list)


class QuantisedCheckpoint:
    """A checkpoint whose tensors are those of a recipe: what `prepared` builds from."""

    def __init__(self, source: Checkpoint, tensors: Quantised) -> None:
        self.source = source
        self.path, self.paths, self.size = source.path, source.paths, source.size
        self.metadata: Mapping[str, Any] = source.metadata
        self.notes = source.notes
        self.tensors: Mapping[str, Tensor] = tensors

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, rows first."""
        return self.source.shapes

    @property
    def types(self) -> list[tuple[str, int]]:
        """Type and bytes of every tensor."""
        return [(_format(tensor), tensor.nbytes) for tensor in self.tensors.values()]

    def check(self, names: Iterable[str] | None = None) -> None:
        """See `GGUFFile.check`."""
        self.source.check(names)

    def release(self, tensor: Tensor) -> None:
        """See `GGUFFile.release`."""
        self.source.release(tensor)

    def close(self) -> None:
        """See `GGUFFile.close`."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def convert(
    source: Path,
    target: Path,
    *,
    to: Target,
    name: str,
    blocks: str = "auto",
    threads: int,
    force: bool = False,
    progress: bool = False,
    measured: bool = True,
    backend: Backend = "native",
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Quantise the model at `source`, a GGUF file or a Hugging Face folder, to `target`.

    A target that ends in .gguf becomes a GGUF file, any other a built folder. name: what clients will call it. blocks:
    the format of 4-bit matrices, see `recipe.formats`. force: replace what an earlier run wrote there. measured: find
    perplexities. backend: the one that a folder is for. say gets warnings as they come up. Until it is complete and on
    disk the result has a hidden name.

    Memory: a few pieces of one matrix, and what reading a calibration text takes (w4-awq). Measuring loads the models.

    Raises ConfigError when something is in the way, DoesNotFit for lack of disk, CorruptFile for weights that are not
    finite, the errors of opening a model, and OSError when writing fails.
    """
    if to not in TARGETS:
        raise ConfigError(f"to is {to!r}; choose {', '.join(TARGETS)}.")
    as_file = target.suffix == ".gguf"
    target = target.expanduser().absolute()
    check_quantize_target(source, target, force=force)
    with open_checkpoint(source) as file:
        notes = [*file.notes]

        def note(text: str) -> None:
            notes.append(text)
            say(text)

        program = models.describe(file.metadata, file.shapes, lambda key: file.tensors[key].dequantize())
        file.check()
        tokens = tokenizer.load(file.metadata)
        already = already_quantised(program, file.tensors)
        if already:
            note(f"the source is quantised already ({already}); what it has lost stays lost")
        start = time.monotonic()
        chosen = formats(program, file.shapes, to, blocks)
        scales = _calibrated(file, program, tokens, chosen, threads, progress) if to == "w4-awq" else None
        if as_file:
            metadata, problem = metadata_for_gguf(file.metadata, program, chosen)
            if problem:
                note(problem)
            tensors = _quantised(file, chosen, scales, threads, row_order(program))
            _write_file(target, metadata, tensors, name, force, progress)
        else:
            tensors = _quantised(file, chosen, scales, threads)
            checkpoint = QuantisedCheckpoint(file, tensors)
            made = f"{to}/{blocks}"
            build_from(
                checkpoint,
                target,
                name=name,
                threads=threads,
                force=force,
                progress=progress,
                quantised=made,
                backend=backend,
            )
        report = Report(
            target=target,
            to=to,
            source_bytes=sum(size for _, size in file.types),
            bytes=sum(tensor.nbytes for tensor in tensors.values()),
            formats=dict(Counter(_format(tensor) for tensor in tensors.values())),
            seconds=time.monotonic() - start,
            notes=notes,
        )
        if measured:
            _measure(report, file, program, tokens, threads, progress, note)
    return report


def check_quantize_target(source: Path, target: Path, *, force: bool) -> None:
    """Raise ConfigError unless the target is free, or holds what an earlier run wrote and may be replaced."""
    if target.suffix != ".gguf":
        check_target(target, force=force)
    elif os.path.lexists(target):
        if target.is_dir() or not target.is_file():
            raise ConfigError(f"{target} is there and is no file; name another.")
        if source.exists() and os.path.samefile(source, target):
            raise ConfigError(f"{target} is the source itself; name another file.")
        if not force:
            raise ConfigError(f"{target} is there already; --force replaces it.")


def already_quantised(program: Program, tensors: Mapping[str, Any]) -> str | None:
    """The format that most matrices of the layers have, when that is a quantised one."""
    names = dict.fromkeys(op.weight for op in program.ops if isinstance(op, Linear))
    found = Counter(tensor.format.name for name in names if isinstance(tensor := tensors[name], QuantTensor))
    return found.most_common(1)[0][0] if found else None


def _format(tensor: Tensor) -> str:
    return tensor.format.name if isinstance(tensor, QuantTensor) else tensor.dtype


def _quantised(
    file: Checkpoint, chosen: Mapping[str, Any], scales: Scales | None, threads: int, order: Any = None
) -> Quantised:
    return Quantised(file.tensors, chosen, scales, order=order, threads=threads, release=file.release)


def _calibrated(
    file: Checkpoint, program: Program, tokens: Tokenizer, chosen: Mapping[str, Any], threads: int, progress: bool
) -> Scales:
    """Scales by what flows through the model when it reads the built-in calibration text."""
    windows = measure.windows(tokens, measure.text("calibration"), min(CALIBRATION_WINDOW, program.max_context))
    sizes = {key: int(np.prod(file.shapes[key])) for key in chosen}
    done = 0
    with bar("Calibrating", sum(sizes.values()), progress, unit="") as show:

        def on_matrix(key: str) -> None:
            nonlocal done
            done += sizes.get(key, 0)
            show(done)

        return calibrate(
            program, file.tensors, chosen, windows, threads=threads, release=file.release, on_matrix=on_matrix
        )


def _write_file(
    target: Path, metadata: Mapping[str, Any], tensors: Quantised, name: str, force: bool, progress: bool
) -> None:
    """Write the GGUF file beside its place, force it to disk and move it there with one rename."""
    total = tensor_bytes(tensors)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < total:
        raise DoesNotFit(
            f"{target.name} takes {total / 1e6:,.0f} MB and {target.parent} has {free / 1e6:,.0f} MB free "
            f"({total:,} and {free:,} bytes). Make room, or name a file on another disk."
        )
    with (
        disk.room(target.name, target.parent, total),
        workshop(target) as work,
        bar(f"Quantising {name}", total, progress) as show,
    ):
        path = work / target.name
        write_gguf(path, metadata, tensors, show)
        if not force and os.path.lexists(target):
            raise ConfigError(f"{target} was written by someone else meanwhile; --force replaces it.")
        os.replace(path, target)
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _measure(
    report: Report,
    file: Checkpoint,
    program: Program,
    tokens: Tokenizer,
    threads: int,
    progress: bool,
    note: Callable[[str], None],
) -> None:
    """Perplexities of the source and of what was written, of whichever fits the memory that is there."""
    longest = min(measure.WINDOW, program.max_context)
    windows = measure.windows(tokens, measure.text("evaluation"), longest)
    total = sum(len(window) - 1 for window in windows)

    def find(label: str, program: Program, weights: Mapping[str, Weight], release: Callable[[Tensor], None]) -> None:
        size = sum(weights[name].nbytes for name in program.weight_names())
        needed = size + longest * program.kv_bytes_per_token() + WORKING_MEMORY
        if needed > (there := available_memory()):
            note(f"perplexity {label} was not measured: it takes {needed / 1e9:.1f} GB, {there / 1e9:.1f} GB are free")
            return
        with bar(f"Perplexity {label}", total, progress, unit=" tokens") as show:
            found = measure.perplexity(program, weights, windows, threads=threads, on_tokens=show, release=release)
        setattr(report, label, found)

    find("before", program, file.tensors, file.release)
    if report.target.is_dir():
        build = open_build(report.target)
        try:
            find("after", build.program, build.weights, lambda tensor: None)
        finally:
            build.close()
    else:
        with open_checkpoint(report.target) as written:
            described = models.describe(written.metadata, written.shapes, lambda key: written.tensors[key].dequantize())
            find("after", described, written.tensors, written.release)
