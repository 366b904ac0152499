"""Facts of made-up machines, read from files as Linux has them."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from befit.doctor import facts
from befit.plan import nvml
from befit.plan.machine import Machine


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store and a machine without a driver."""
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "store"))
    monkeypatch.setattr(nvml, "detect", list)
    monkeypatch.setattr(nvml, "driver_version", lambda: None)


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def gather(laptop: Machine, root: Path, **wishes: Any) -> dict[str, Any]:
    return facts.gather(laptop, **{"port": 1, "root": root, "environment": {}, **wishes})


def test_everything_is_ready_for_json(laptop: Machine, tmp_path: Path) -> None:
    found = gather(laptop, tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert found["memory"]["available"] == laptop.available
    assert found["cpu"]["isa"] in found["cpu"]["isas"]


def test_the_features_that_kernels_use(laptop: Machine, tmp_path: Path) -> None:
    root = write(tmp_path, **{"proc/cpuinfo": "processor : 0\nflags\t\t: fpu f16c avx2 sse fma amx_tile\n"})
    assert gather(laptop, root)["cpu"]["features"] == ["avx2", "fma", "f16c", "amx_tile"]


def test_the_chosen_way_of_huge_pages(laptop: Machine, tmp_path: Path) -> None:
    assert gather(laptop, tmp_path)["memory"]["huge_pages"] is None
    root = write(tmp_path, **{"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]"})
    assert gather(laptop, root)["memory"]["huge_pages"] == "never"


@pytest.mark.parametrize(
    ("vendor", "kind", "there"),
    [("0x10de", "0x030000", True), ("0x10de", "0x040300", False), ("0x8086", "0x030000", False)],
)
def test_a_card_that_no_driver_answers_for(
    laptop: Machine, tmp_path: Path, vendor: str, kind: str, there: bool
) -> None:
    device = "sys/bus/pci/devices/0000:01:00.0"
    root = write(tmp_path, **{f"{device}/vendor": vendor, f"{device}/class": kind})
    assert gather(laptop, root)["card_without_driver"] is there


def test_a_port_in_use(laptop: Machine, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert gather(laptop, tmp_path, port=port)["port"] == {"number": port, "free": False}
    assert gather(laptop, tmp_path, port=port)["port"]["free"] is True


def test_secrets_are_not_shown(laptop: Machine, tmp_path: Path) -> None:
    found = gather(laptop, tmp_path, environment={"HF_TOKEN": "hf_secret", "BEFIT_ISA": "avx2", "HOME": "/x"})
    assert found["environment"] == {"BEFIT_ISA": "avx2", "HF_TOKEN": "(set)"}


def test_a_store_that_is_not_there_yet(laptop: Machine, tmp_path: Path) -> None:
    store = gather(laptop, tmp_path)["store"]
    assert store["path"] == str(tmp_path / "store")
    assert (store["size"], store["models"], store["writable"]) == (0, [], True)
    assert store["free"] > 0
    (tmp_path / "store").write_text("a file in the way")
    assert gather(laptop, tmp_path)["store"]["writable"] is False
