"""Cores and memory as seen through affinity, hyperthreads and cgroups, on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from befit.plan.hardware import available_memory, cpu_limit, memory_limit, physical_cores, total_memory


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def machine(root: Path, siblings: list[str]) -> Path:
    files = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": text for i, text in enumerate(siblings)}
    return write(root, **files, **{"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 6000 kB"})


def test_hyperthreads_of_a_core_count_once(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert physical_cores(root, {0, 1, 2, 3}) == 2
    assert physical_cores(root, {0, 2}) == 1
    assert physical_cores(root, {0, 3}) == 2


def test_without_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    assert physical_cores(tmp_path, {0, 1, 2}) == 3


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("", 4)])
def test_a_cgroup_quota_rounds_down_to_at_least_one(tmp_path: Path, quota: str, cores: int) -> None:
    root = machine(tmp_path, ["0", "1", "2", "3"])
    write(root, **{"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": quota})
    assert physical_cores(root, {0, 1, 2, 3}) == cores


def test_the_tightest_cgroup_on_the_way_up_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
        },
    )
    assert cpu_limit(tmp_path) == 1.5


def test_version_1_cgroups(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0", "1", "2", "3"])
    write(
        root,
        **{
            "proc/self/cgroup": "4:memory:/app\n2:cpu,cpuacct:/app",
            "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "3000000",
            "sys/fs/cgroup/memory/app/memory.usage_in_bytes": "2000000",
            "sys/fs/cgroup/memory/app/memory.stat": "inactive_file 1\ntotal_inactive_file 500000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "2000000",
        },
    )
    assert physical_cores(root, {0, 1, 2, 3}) == 2
    assert available_memory(root) == 1_500_000


def test_a_cgroup_path_of_another_namespace_falls_back_to_the_mount(tmp_path: Path) -> None:
    write(tmp_path, **{"proc/self/cgroup": "0::/not/here", "sys/fs/cgroup/cpu.max": "100000 100000"})
    assert cpu_limit(tmp_path) == 1.0


@pytest.mark.parametrize("text", ["", "nonsense", "0::", "7:cpu", "0::/../../etc"])
def test_what_is_not_understood_limits_nothing(tmp_path: Path, text: str) -> None:
    root = machine(tmp_path, ["0", "1"])
    write(root, **{"proc/self/cgroup": text, "sys/fs/cgroup/cpu.max": "a lot", "sys/fs/cgroup/memory.max": "more"})
    assert physical_cores(root, {0, 1}) == 2
    assert available_memory(root) == 6_144_000


def test_affinity_hyperthreads_and_a_quota_together(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0,4", "1,5", "2,6", "3,7"] * 2)
    write(root, **{"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "350000 100000"})
    assert physical_cores(root, {0, 4, 1, 5}) == 2
    assert physical_cores(root, set(range(8))) == 3


def test_memory_is_what_is_available_within_the_cgroup(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0"])
    assert available_memory(root) == 6_144_000
    write(
        root,
        **{
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": "4000000",
            "sys/fs/cgroup/memory.current": "3500000",
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 300000",
        },
    )
    assert available_memory(root) == 800_000
    write(root, **{"sys/fs/cgroup/memory.high": "3900000"})
    assert available_memory(root) == 700_000
    write(root, **{"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.high": "max"})
    assert available_memory(root) == 6_144_000


def test_this_machine_has_cores_and_memory() -> None:
    assert physical_cores() >= 1
    assert available_memory() > 0


@pytest.mark.parametrize(("limit", "expected"), [("2048000", 2_048_000), ("max", None), ("99999999999999", None)])
def test_a_limit_counts_where_it_is_less_than_the_machine_has(tmp_path: Path, limit: str, expected: int | None) -> None:
    root = machine(tmp_path, ["0"])
    assert total_memory(root) == 8000 * 1024
    assert memory_limit(root) is None
    write(root, **{"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/memory.max": limit})
    assert memory_limit(root) == expected
