"""What this process may use of the machine: physical cores and memory, within CPU affinity and cgroup limits.

Sources: sysfs `cpu/*/topology`, `/proc/meminfo`, and the cgroup files of Linux (v2 `cpu.max`, `memory.max`,
`memory.high`; v1 `cpu.cfs_quota_us`, `memory.limit_in_bytes`). `root` is where /proc and /sys are looked for; tests
point it elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_MEMORY_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
"""Of cgroups v2, whose second one does not end a process but slows it to a crawl, and v1."""


def physical_cores(root: Path = _ROOT, cpus: set[int] | None = None) -> int:
    """Cores that this process may keep busy: hyperthreads of one core count once, a CPU quota rounds down to >= 1."""
    allowed = os.sched_getaffinity(0) if cpus is None else cpus
    cores = len({_core_of(root, cpu) for cpu in allowed})
    limit = cpu_limit(root)
    return cores if limit >= cores else max(1, int(limit))


def cpu_limit(root: Path = _ROOT) -> float:
    """CPUs' worth of time that the cgroups grant; infinity without a limit."""
    limit = float("inf")
    for folder in _cgroups(root, "cpu"):
        both = _read(folder / "cpu.max").split()
        quota, period = both if len(both) == 2 else (_read(folder / f"cpu.cfs_{key}_us") for key in ("quota", "period"))
        if _is_number(quota) and _is_number(period) and int(quota) > 0 and int(period) > 0:
            limit = min(limit, int(quota) / int(period))
    return limit


def memory_limit(root: Path = _ROOT) -> int | None:
    """Bytes that the tightest cgroup grants, where that is less than the machine has; None without such a limit."""
    limits = [_read(folder / name) for folder in _cgroups(root, "memory") for name in _MEMORY_LIMITS]
    tightest = min((int(text) for text in limits if _is_number(text)), default=None)
    return tightest if tightest is not None and tightest < total_memory(root) else None


def total_memory(root: Path = _ROOT) -> int:
    """Bytes of memory that the machine has."""
    return _field(_read(root / "proc/meminfo"), "MemTotal:") * 1024


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that can be taken without swapping or passing a cgroup's limit."""
    available = _field(_read(root / "proc/meminfo"), "MemAvailable:") * 1024
    for folder in _cgroups(root, "memory"):
        v2 = (folder / "memory.max").exists()
        limits = [int(text) for name in _MEMORY_LIMITS if _is_number(text := _read(folder / name))]
        used = _read(folder / ("memory.current" if v2 else "memory.usage_in_bytes"))
        if limits and _is_number(used):
            # Pages of files that nobody used lately count as used but make room at once.
            droppable = _field(_read(folder / "memory.stat"), "inactive_file" if v2 else "total_inactive_file")
            available = min(available, max(0, min(limits) - int(used) + droppable))
    return available


def _core_of(root: Path, cpu: int) -> str:
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list") or str(cpu)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroups for `controller`, v1 and v2, from its own up to the top."""
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.count(":") < 2:  # not as Linux writes it: no limit is known
            continue
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops = [base, base / "unified"]
        elif controller in controllers.split(","):
            tops = [base / controllers, base / controller]
        else:
            continue
        for top in tops:
            own = top / path.lstrip("/")
            yield from dict.fromkeys(folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name:
            return int(words[1])
    return 0
