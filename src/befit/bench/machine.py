"""What a result has to say about where it was measured."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from befit.plan.hardware import available_memory, cpu_limit, physical_cores

QUIET = 0.5
"""A load average above this at the start means that something else runs."""


def machine() -> dict[str, Any]:
    """The CPU, what of it may be used, memory, instruction sets and versions; the load before the measurement."""
    from importlib.metadata import PackageNotFoundError, version

    from befit import __version__
    from befit.backends.native import _native

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    limit = cpu_limit()
    return {
        "cpu": cpu_model(),
        "cores": physical_cores(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu_limit": None if limit == float("inf") else limit,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "available_bytes": available_memory(),
        "isas": _native.isas(),
        "isa": os.environ.get("BEFIT_ISA") or _native.isas()[0],
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"befit": __version__, "python": platform.python_version(), "numpy": installed("numpy")},
    }


def cpu_model(root: Path = Path("/")) -> str:
    """The CPU's name, or the kind of machine when it has none."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def headline(info: dict[str, Any]) -> str:
    """The machine in one line, and a warning when it is busy."""
    line = f"{info['cpu']}, {info['cores']} cores, {info['memory_bytes'] / 1e9:.0f} GB, {info['isa']}"
    line += f"; befit {info['versions']['befit']}, Python {info['versions']['python']}"
    if info["load"] > QUIET:
        line += (
            f"\nWarning: the load average is {info['load']:.2f}: something else runs here and the numbers will say so."
        )
    return line
