"""Which device, in which number format: what is decided once, before anything is loaded."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from befit.errors import ConfigError

HALF_CAPABILITY = (8, 0)
"""From this compute capability on (Ampere) the matrix units multiply bfloat16; older ones only float16."""

FP8_CAPABILITY = (8, 9)
"""From this compute capability on (Ada) there are instructions for e4m3."""


@dataclass(frozen=True, slots=True)
class Target:
    """device: as torch spells it. compute: "f32", "f16" or "bf16", of activations and dense matrices.

    capability: of a card, as (9, 0); None on a CPU. triton: its kernels can run here, interpreted or compiled.
    """

    device: str
    compute: str
    capability: tuple[int, int] | None
    triton: bool

    @property
    def is_cuda(self) -> bool:
        """Whether it is a card."""
        return self.device.startswith("cuda")

    @property
    def has_fp8(self) -> bool:
        """Whether it converts e4m3, and its matrix units multiply it."""
        return self.capability is not None and self.capability >= FP8_CAPABILITY


def installed() -> bool:
    """Whether torch can be imported; asks without importing it, which takes seconds."""
    return importlib.util.find_spec("torch") is not None


def choose_target(device: str | None = None) -> Target:
    """The device that `device` or BEFIT_CUDA_DEVICE names, else the first card.

    A CPU computes in float32, as the reference does. Raises ConfigError without torch or without that device.
    """
    if not installed():
        raise ConfigError("backend is 'cuda' but torch is not installed; pip install 'befit[cuda]', or choose native.")
    import torch

    wanted = device or os.environ.get("BEFIT_CUDA_DEVICE", "") or "cuda"
    has_triton = importlib.util.find_spec("triton") is not None
    if wanted == "cpu":
        return Target("cpu", "f32", None, has_triton and os.environ.get("TRITON_INTERPRET") == "1")
    kind, _, index = wanted.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise ConfigError(f"BEFIT_CUDA_DEVICE is {wanted!r}; write cuda, cuda:N or cpu.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(index or 0)
    if number >= count:
        raise ConfigError(
            f"backend is 'cuda' but torch {torch.__version__} sees {count} CUDA devices and {wanted} was asked for; "
            "choose --backend native, or check the driver with nvidia-smi."
        )
    capability = torch.cuda.get_device_capability(number)
    compute = "bf16" if capability >= HALF_CAPABILITY else "f16"
    return Target(f"cuda:{number}", compute, capability, has_triton)
