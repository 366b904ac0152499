"""What is wrong on a machine, judged from its facts alone, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

LITTLE_DISK = 5 * 10**9
LITTLE_MEMORY = 600 * 10**6
"""With less than this free, hardly a model runs."""
ERROR_SHARE, ERROR_BYTES = 0.05, 100 * 10**6
"""How far a predicted peak of memory may be off."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to know. broken: befit does not work, or not as asked, until it is mended; warning: it works worse than
    it could; note: it may surprise."""

    level: Literal["broken", "warning", "note"]
    what: str
    mend: str


def problems(facts: Mapping[str, Any]) -> list[Problem]:
    """All there is to say, what matters most first."""
    order = ("broken", "warning", "note")
    found = [*_cpu(facts), *_memory(facts), *_cards(facts), *_store(facts), *_surroundings(facts)]
    return sorted(found, key=lambda problem: order.index(problem.level))


def _cpu(facts: Mapping[str, Any]) -> Iterator[Problem]:
    cpu = facts["cpu"]
    forced = facts["environment"].get("BEFIT_ISA")
    if forced and forced not in cpu["isas"]:
        yield Problem(
            "broken",
            f"BEFIT_ISA is {forced!r}, and this build on this CPU runs {', '.join(cpu['isas'])}.",
            "Unset BEFIT_ISA, or name one of these.",
        )
    elif forced and forced != cpu["isas"][0]:
        yield Problem("warning", f"BEFIT_ISA forces {forced}; {cpu['isas'][0]} is faster here.", "Unset BEFIT_ISA.")
    if cpu["isas"] == ["generic"] and "asimd" not in cpu["features"]:
        yield Problem(
            "warning",
            "The CPU has no AVX2, so befit uses portable kernels, which are many times slower.",
            "Use another machine; in a virtual machine, pass the host's CPU features through (-cpu host in QEMU).",
        )
    if cpu["limit"] is not None and cpu["limit"] < cpu["cores"]:
        yield Problem(
            "note",
            f"A cgroup grants {cpu['limit']:g} CPUs of time; {cpu['cores']} cores would be there.",
            "Raise the container's CPU limit (docker run --cpus, resources.limits.cpu).",
        )
    if cpu["load"] > max(1.0, cpu["cores"] / 2):
        yield Problem(
            "note",
            f"The load average is {cpu['load']:.1f}: something else runs here, and what was measured says so.",
            "Run befit doctor again when the machine is quiet.",
        )


def _memory(facts: Mapping[str, Any]) -> Iterator[Problem]:
    memory = facts["memory"]
    if memory["available"] < LITTLE_MEMORY:
        yield Problem(
            "broken",
            f"{_mb(memory['available'])} of memory are free: too little for most models.",
            "End other programs, or raise the container's memory limit.",
        )
    if memory["limit"] is not None:
        yield Problem(
            "note",
            f"A cgroup limits memory to {_gb(memory['limit'])}; the machine has {_gb(memory['total'])}.",
            "befit keeps to the limit. To use more, raise it (docker run --memory, resources.limits.memory).",
        )
    if memory["huge_pages"] == "never":
        yield Problem(
            "warning",
            "Transparent huge pages are turned off, which makes reading weights slower.",
            "As root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    peak = facts.get("peak")
    if peak is not None and abs(peak["predicted"] - peak["measured"]) > max(
        ERROR_SHARE * peak["measured"], ERROR_BYTES
    ):
        yield Problem(
            "warning",
            f"A server was predicted to take {_mb(peak['predicted'])} of memory and took {_mb(peak['measured'])}.",
            "Leave room with --memory, and report this page.",
        )


def _cards(facts: Mapping[str, Any]) -> Iterator[Problem]:
    if facts["card_without_driver"]:
        yield Problem(
            "note",
            "There is a graphics card of NVIDIA's and no driver answers.",
            "Install the driver (nvidia-smi then lists the card); in a container, pass the card in (--gpus all).",
        )
    for card in facts["cards"]:
        torch = "" if facts["versions"]["torch"] else ", and torch is not installed"
        yield Problem(
            "note",
            f"{card['name']} is not used: befit computes on the CPU{torch}.",
            "Nothing to mend. befit plan MODEL --gpu NAME says what would fit the card.",
        )


def _store(facts: Mapping[str, Any]) -> Iterator[Problem]:
    store = facts["store"]
    if not store["writable"]:
        yield Problem(
            "broken",
            f"{store['path']} cannot be written, so no model can be fetched.",
            "Set BEFIT_HOME to a folder that you may write to, or mend the folder's owner and rights.",
        )
    for model in store["models"]:
        if model["problem"]:
            yield Problem("broken", f"{model['name']}: {model['problem']}.", f"befit pull {model['name']}")
    if store["free"] < LITTLE_DISK:
        yield Problem(
            "warning",
            f"{_gb(store['free'])} of disk are free where models are kept ({store['path']}).",
            "Remove models, or set BEFIT_HOME to a folder on another disk.",
        )


def _surroundings(facts: Mapping[str, Any]) -> Iterator[Problem]:
    port = facts["port"]
    if not port["free"]:
        yield Problem(
            "warning",
            f"Port {port['number']} is in use, perhaps by another befit.",
            f"befit serve --port {port['number'] + 1}",
        )
    if facts["environment"].get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        yield Problem("note", "HF_HUB_OFFLINE is set: nothing is asked of the hub.", "Unset it to fetch models.")
    if facts["compiler"] is None:
        yield Problem(
            "note",
            "There is no C++ compiler, which only installing befit from its sources needs.",
            "Install g++ (the package is g++ or build-essential), or install a wheel.",
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 10**9 else _gb(size)
