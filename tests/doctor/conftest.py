"""A machine that nothing is wrong with."""

from __future__ import annotations

from typing import Any

import pytest

from befit.plan.machine import Machine


@pytest.fixture
def healthy() -> dict[str, Any]:
    """What `facts.gather` says of a quiet machine with all it needs."""
    return {
        "versions": {"befit": "1", "python": "3.12", "numpy": "2", "torch": None, "driver": None},
        "cpu": {
            "name": "CPU",
            "cores": 4,
            "cpus": 8,
            "limit": None,
            "features": ["avx2"],
            "isas": ["avx2", "generic"],
            "isa": "avx2",
            "load": 0.1,
        },
        "memory": {
            "total": 16 * 10**9,
            "limit": None,
            "available": 12 * 10**9,
            "reserve": 600 * 10**6,
            "bandwidth": 20e9,
            "multiply_adds": 1e11,
            "huge_pages": "madvise",
        },
        "cards": [],
        "card_without_driver": False,
        "store": {"path": "/models", "writable": True, "free": 10**11, "size": 0, "models": []},
        "compiler": "/usr/bin/c++",
        "port": {"number": 8000, "free": True},
        "environment": {},
        "peak": None,
    }


@pytest.fixture
def laptop() -> Machine:
    """12 GB free, 20 GB/s."""
    return Machine(
        name="laptop",
        kind="cpu",
        available=12 * 10**9,
        bandwidth=20e9,
        rate=1e11,
        overhead=90 * 10**6,
        source="test",
        reserve=600 * 10**6,
        token_overhead=650,
        threads=4,
    )
