"""What a model has to fit: this machine, a card in it, a card by name, or so many bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from befit.errors import ConfigError
from befit.plan.hardware import available_memory, memory_limit, physical_cores, total_memory

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_PROBE_BYTES = 256 << 20
"""Read to measure the bandwidth: more than most caches hold."""
_PROBE_SECONDS = 0.06


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What counts of a machine.

    available: bytes that a model may take. bandwidth: bytes a second. rate: multiply-adds a second in matrix products;
    None is unknown. overhead: bytes that running anything at all takes, a token of the vocabulary `token_overhead`.
    reserve: bytes of those available that stay free. source: whence the numbers, for people. threads: of a CPU.
    """

    name: str
    kind: Literal["cpu", "gpu"]
    available: int
    bandwidth: float | None
    rate: float | None
    overhead: int
    source: str
    reserve: int = 0
    token_overhead: int = 0
    threads: int = 1


CPU_OVERHEAD = 90 * 10**6
"""Python and its libraries, measured: see benchmarks/memory.py."""
CPU_TOKEN_OVERHEAD = 650
"""The tokeniser, and the metadata of the model file, measured likewise."""
RESERVE_SHARE = 20
RESERVE_LEAST = 100 * 10**6
"""What stays free: a twentieth, at least so much. Grammars, long requests, and what was not foreseen."""
GPU_OVERHEAD = 500 * 10**6
"""A CUDA context and the libraries' workspaces: an allowance, not a measurement."""


def this_cpu(*, measure: bool = True, root: Path = Path("/"), threads: int | None = None) -> Machine:
    """This machine's memory and cores; `measure` times reads and multiplications for a tenth of a second each.

    root is where /proc and /sys are looked for; threads are used, by default one a physical core.
    """
    available = available_memory(root)
    threads = threads or physical_cores(root)
    bandwidth = rate = None
    isa = ""
    if measure:
        from befit.backends.native import _native

        isa = _native.isas()[0]
        size = min(_PROBE_BYTES, available // 4)
        bandwidth = _native.read_bandwidth(size, threads, _PROBE_SECONDS)
        rate = _native.multiply_add_peak(isa, True, threads, _PROBE_SECONDS)
    return Machine(
        name=f"this machine's CPU, {threads} core{'s' if threads > 1 else ''}{f', {isa}' if isa else ''}",
        kind="cpu",
        available=available,
        bandwidth=bandwidth,
        rate=rate,
        overhead=CPU_OVERHEAD,
        token_overhead=CPU_TOKEN_OVERHEAD,
        source="memory free now, bandwidth measured" if measure else "memory free now",
        reserve=reserve_of(available),
        threads=threads,
    )


def these_cards() -> list[Machine]:
    """The NVIDIA cards in this machine."""
    from befit.plan import cards, nvml

    found = []
    for card in nvml.detect():
        try:
            rate: float | None = cards.find(card.name).tflops * 1e12 / 2
        except ConfigError:
            rate = None
        found.append(
            Machine(
                name=card.name,
                kind="gpu",
                available=card.free,
                bandwidth=card.bandwidth or None,
                rate=rate,
                overhead=GPU_OVERHEAD,
                source="memory free now, from the driver",
            )
        )
    return found


def named_card(name: str) -> Machine:
    """A card of the table. Raises ConfigError for a name that it does not have."""
    from befit.plan import cards

    card = cards.find(name)
    return Machine(
        name=card.name,
        kind="gpu",
        available=card.memory_gib << 30,
        bandwidth=card.bandwidth_gb_s * 1e9,
        rate=card.tflops * 1e12 / 2,
        overhead=GPU_OVERHEAD,
        source="the maker's data sheet",
    )


def limited(machine: Machine, available: int) -> Machine:
    """The machine with so many bytes instead."""
    reserve = reserve_of(available) if machine.kind == "cpu" or machine.reserve else 0
    source = machine.source.replace("memory free now", "memory as given")
    return replace(machine, available=available, reserve=reserve, source=source)


def given_memory(size: int | str, root: Path = Path("/")) -> int:
    """Bytes that befit was told to take. Raises ConfigError for what is no size, and for more than this process is ever
    granted: it would be ended by the system once it is used."""
    given = parse_size(str(size))
    limit, total = memory_limit(root), total_memory(root)
    most = total if limit is None else limit
    if given > most > 0:
        holder = "the machine has" if limit is None else "the process's cgroup grants"
        raise ConfigError(
            f"memory is {given:,} bytes and {holder} {most:,}; set --memory to at most {most // 2**20} MiB, or leave "
            "it out: befit then takes what is free."
        )
    return given


def reserve_of(available: int) -> int:
    """Bytes of those available that stay free."""
    return max(RESERVE_LEAST, available // RESERVE_SHARE)


def parse_size(text: str) -> int:
    """Bytes from `8GiB`, `8G`, `6.5 GB`, `7000000000`. Raises ConfigError for what is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"{text!r} is no amount of memory; write 8GiB (of 2^30 bytes), 8GB (of 10^9) or plain bytes.")
    return int(float(match[1]) * _UNITS[match[2] or ""])
