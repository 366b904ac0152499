"""Machines: cards by name, cards in this machine by their driver, sizes as people write them."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from befit.errors import ConfigError
from befit.plan import cards, machine, nvml


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4060", "RTX 4060"),
        ("rtx4060", "RTX 4060"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Laptop"),
        ("RTX 4060 Ti 16GB", "RTX 4060 Ti 16G"),
        ("A100-80G", "A100-80G"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA H100 80GB HBM3", "H100-80G"),
        ("H100", "H100-80G"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100-16G"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_cards_by_name(text: str, name: str) -> None:
    assert cards.find(text).name == name


@pytest.mark.parametrize(
    ("text", "hint"), [("A100", "A100-40G or A100-80G"), ("RTX 4065", "RTX 406"), ("toaster", "--memory")]
)
def test_a_card_that_is_not_there_or_not_one(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        cards.find(text)


def test_every_card_is_found_by_its_name() -> None:
    assert [cards.find(card.name) for card in cards.CARDS] == list(cards.CARDS)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30),
        ("8GB", 8 * 10**9),
        ("8g", 8 * 10**9),
        ("6.5 GB", 6_500_000_000),
        ("512MiB", 512 << 20),
        ("1000", 1000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert machine.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "eight", "8XB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="8GiB"):
        machine.parse_size(text)


def test_this_machine_has_memory_and_a_bandwidth() -> None:
    this = machine.this_cpu()
    assert this.available > 0
    assert this.bandwidth is not None
    assert this.bandwidth > 1e8
    less = machine.limited(this, 1 << 30)
    assert less.available == 1 << 30
    assert less.reserve == machine.RESERVE_LEAST
    assert machine.limited(this, 100 << 30).reserve == 5 << 30
    assert machine.limited(machine.named_card("T4"), 1 << 30).reserve == 0


class FakeDriver:
    """The NVML calls that befit makes, over one card; `failing` names a call that does not work."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> int:
            if name == self.failing:
                return 999
            answer = vars(FakeDriver).get(f"_{name}")
            if answer is not None:
                answer(self, *args)
            return 0

        return call

    def _nvmlInit_v2(self) -> None:  # noqa: N802
        self.open += 1

    def _nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def _nvmlSystemGetDriverVersion(self, text: Any, length: int) -> None:  # noqa: N802
        assert length == ctypes.sizeof(text)
        text.value = b"560.35.03"

    def _nvmlDeviceGetCount_v2(self, count: Any) -> None:  # noqa: N802
        count._obj.value = 1

    def _nvmlDeviceGetName(self, _: Any, name: Any, length: int) -> None:  # noqa: N802
        assert length == ctypes.sizeof(name)
        name.value = b"NVIDIA A100-SXM4-80GB"

    def _nvmlDeviceGetMemoryInfo(self, _: Any, memory: Any) -> None:  # noqa: N802
        memory._obj.total, memory._obj.free = 80 << 30, 79 << 30

    def _nvmlDeviceGetMaxClockInfo(self, _: Any, kind: int, clock: Any) -> None:  # noqa: N802
        assert kind == 2
        clock._obj.value = 1593

    def _nvmlDeviceGetMemoryBusWidth(self, _: Any, width: Any) -> None:  # noqa: N802
        width._obj.value = 5120


def test_a_card_as_its_driver_sees_it() -> None:
    driver = FakeDriver()
    [card] = nvml.detect(driver)
    assert (card.name, card.memory, card.free) == ("NVIDIA A100-SXM4-80GB", 80 << 30, 79 << 30)
    assert card.bandwidth == pytest.approx(2039e9, rel=0.001)
    assert driver.open == 0


def test_the_version_of_the_driver() -> None:
    driver = FakeDriver()
    assert nvml.driver_version(driver) == "560.35.03"
    assert driver.open == 0
    assert nvml.driver_version(FakeDriver("nvmlInit_v2")) is None
    assert nvml.driver_version(FakeDriver("nvmlSystemGetDriverVersion")) is None


@pytest.mark.parametrize("call", ["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_fails_has_no_cards(call: str) -> None:
    assert nvml.detect(FakeDriver(call)) == []


def test_a_card_that_does_not_tell_its_clock_has_no_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    detected = nvml.detect(FakeDriver("nvmlDeviceGetMaxClockInfo"))
    assert detected[0].bandwidth == 0
    monkeypatch.setattr(nvml, "detect", lambda: detected)
    [found] = machine.these_cards()
    assert (found.kind, found.available, found.bandwidth) == ("gpu", 79 << 30, None)
    assert found.rate == 156e12
