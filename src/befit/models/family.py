"""What a family file provides: its name in GGUF, and the function that lists a model's ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from befit.models.parts import Need, Parts
from befit.models.program import Op


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture: `ops` describes a model; the rest says how its files are read (see `Parts`, `read_config`)."""

    arch: str
    runs: str
    """Models of this architecture, for people."""
    ops: Callable[[Parts], list[Op]]
    norm_kind: Literal["rms", "layer"] = "rms"
    qkv_bias: Need = "optional"
    bias: Need = "optional"
    default_window: int | None = None
    default_window_period: int = 0
    default_local_base: float | None = None
    interleaved: bool = False
    """How GGUF stores the components that rotate together; see `Rope`."""
