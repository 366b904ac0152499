"""What is so on this machine. Nothing here judges."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from befit import store
from befit.bench.machine import machine as machine_facts
from befit.plan import nvml
from befit.plan.hardware import memory_limit
from befit.plan.machine import Machine

FEATURES = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"),
    *("avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve"),
)
"""Of CPUs: those that kernels use or could use, as /proc/cpuinfo spells them."""
VARIABLES = (
    "BEFIT_HOME",
    "BEFIT_ISA",
    "BEFIT_DEBUG",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "OLLAMA_MODELS",
)
_SECRET = ("HF_TOKEN",)


def gather(
    this: Machine, *, port: int, root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Everything, ready for JSON: sizes in bytes, bandwidth in bytes a second. `this` is the machine, measured.

    port: one that a server would listen on. root: where /proc and /sys are looked for.
    """
    about = machine_facts()
    return {
        "versions": {**about["versions"], "torch": _installed("torch"), "driver": nvml.driver_version()},
        "os": about["os"],
        "cpu": {
            "name": about["cpu"],
            "cores": about["cores"],
            "cpus": about["cpus"],
            "limit": about["cpu_limit"],
            "features": _features(root),
            "isas": about["isas"],
            "isa": about["isa"],
            "load": about["load"],
        },
        "memory": {
            "total": about["memory_bytes"],
            "limit": memory_limit(root),
            "available": this.available,
            "reserve": this.reserve,
            "bandwidth": this.bandwidth,
            "multiply_adds": this.rate,
            "huge_pages": _chosen(root / "sys/kernel/mm/transparent_hugepage/enabled"),
        },
        "cards": [{name: getattr(card, name) for name in card.__slots__} for card in nvml.detect()],
        "card_without_driver": _nvidia_on_the_bus(root) and nvml.driver_version() is None,
        "store": _store(),
        "compiler": shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"),
        "port": {"number": port, "free": _is_free(port)},
        "environment": {
            name: "(set)" if name in _SECRET else environment[name] for name in VARIABLES if environment.get(name)
        },
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _features(root: Path) -> list[str]:
    words: set[str] = set()
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words = set(value.split())
            break
    return [name for name in FEATURES if name in words]


def _chosen(path: Path) -> str | None:
    """The word in brackets of a sysfs choice such as `always [madvise] never`."""
    text = _read(path)
    return text.partition("[")[2].partition("]")[0] or None


def _nvidia_on_the_bus(root: Path) -> bool:
    """Whether a PCI device is a graphics card of NVIDIA's: vendor 0x10de, class 0x03…."""
    return any(
        _read(device / "vendor").strip() == "0x10de" and _read(device / "class").startswith("0x03")
        for device in sorted((root / "sys/bus/pci/devices").glob("*"))
    )


def _store() -> dict[str, Any]:
    home = store.home()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    models = store.list_models()
    return {
        "path": str(home),
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        "free": shutil.disk_usage(there).free,
        "size": _size(home),
        "models": [{"name": row.name, "size": row.size, "problem": row.problem or None} for row in models],
    }


def _size(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:  # gone meanwhile
                continue
    return total


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
