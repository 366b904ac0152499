"""Keys and values on the device, in pages: as floats, or as 8 bits with a scale for each key and value of a head.

    f16, f32   the numbers
    int8       round(x * 127 / most), where most is the largest |x| of the vector; scale = most / 127
    fp8        the nearest e4m3 of x * 448 / most; scale = most / 448

What all keys of a layer have in common is taken from them before they are rounded (see backends/keys.py). A vector with
a number that is not finite gets a scale that is not, so that nothing computed from it is.

e4m3 is kept as its bits, since plain torch can hardly do more with its own type than convert it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from befit.backends.cuda.device import Target
from befit.backends.cuda.size import ATTENTION_BYTES
from befit.backends.cuda.weights import Weights
from befit.backends.keys import bias_of_keys, key_center
from befit.models.program import Attention, Program

DTYPES = {"f16": torch.float16, "f32": torch.float32, "int8": torch.int8, "fp8": torch.uint8}
MOST = {"int8": 127.0, "fp8": 448.0}
"""The largest number of each rounded kind."""
LEAST = 1e-30
"""A vector without larger numbers is kept as zeros."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Keys or values of a layer.

    values: [n_blocks + 1, block_size, n_kv_heads, head_dim]. scale: float32 [n_blocks + 1, block_size, n_kv_heads] of a
    rounded kind. center: float32 [n_kv_heads, head_dim], taken from what is written. converts: the card has
    instructions for e4m3.
    """

    kind: str
    values: torch.Tensor
    scale: torch.Tensor | None = None
    center: torch.Tensor | None = None
    converts: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes on the device, without the center."""
        return int(self.values.nbytes) + (0 if self.scale is None else int(self.scale.nbytes))

    @property
    def as_numbers(self) -> torch.Tensor:
        """The values for a kernel: e4m3 in its own type where the card knows it, else as bits."""
        return self.values.view(torch.float8_e4m3fn) if self.kind == "fp8" and self.converts else self.values

    def write(self, slots: torch.Tensor, x: torch.Tensor) -> None:
        """Put x [T, n_kv_heads, d] into slots [T] (page * page size + place)."""
        flat = self.values.view(-1, *self.values.shape[2:])
        if self.scale is None:
            flat.index_copy_(0, slots.long(), x.to(self.values.dtype))
            return
        rounded, scale = quantise(x.float() if self.center is None else x.float() - self.center, self.kind)
        flat.index_copy_(0, slots.long(), rounded)
        self.scale.view(-1, self.scale.shape[2]).index_copy_(0, slots.long(), scale)

    def read(self, pages: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Those pages [...] as numbers [..., block_size, n_kv_heads, d], less what all have in common."""
        if self.scale is None:
            return self.values[pages].to(dtype)
        values = self.values[pages]
        numbers = (values.view(torch.float8_e4m3fn) if self.kind == "fp8" else values).float()
        return numbers.mul_(self.scale[pages][..., None]).to(dtype)

    def sequence(self, table: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
        """The first `length` positions of a sequence with these pages, [length, n_kv_heads, d]."""
        size = self.values.shape[1]
        pages = table[: -(-length // size)].long()
        step = max(1, ATTENTION_BYTES // (4 * self.values[0].numel()))  # as much as is float32 for a moment
        parts = [self.read(some, dtype) for some in pages.split(step)]
        together = parts[0] if len(parts) == 1 else torch.cat(parts)
        return together.reshape(-1, *self.values.shape[2:])[:length]


def quantise(x: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(x float32 [..., d] rounded to the kind, float32 scales [...])."""
    most = x.abs().amax(dim=-1)
    inverse = torch.where(most > LEAST, MOST[kind] / most, 0)
    scaled = x * inverse[..., None]
    rounded = scaled.round().to(torch.int8) if kind == "int8" else scaled.to(torch.float8_e4m3fn).view(torch.uint8)
    finite = (x * 0).sum(dim=-1)  # 0, or NaN
    return rounded, most / MOST[kind] + finite


@dataclass(frozen=True, slots=True)
class LayerKV:
    """Keys and values of a layer."""

    k: Pages
    v: Pages


class KVPool:
    """Keys and values of every layer; the last page is scratch."""

    def __init__(
        self,
        program: Program,
        n_blocks: int,
        block_size: int,
        kind: str,
        device: torch.device,
        *,
        centers: dict[int, torch.Tensor],
        target: Target,
    ) -> None:
        self.scratch = n_blocks
        self.pages: dict[int, LayerKV] = {}
        for op in program.attentions():
            shape = (n_blocks + 1, block_size, op.n_kv_heads, op.head_dim)
            k, v = (
                Pages(
                    kind,
                    torch.zeros(shape, dtype=DTYPES[kind], device=device),
                    torch.zeros(shape[:3], dtype=torch.float32, device=device) if kind in MOST else None,
                    center,
                    target.has_fp8,
                )
                for center in (centers.get(op.layer), None)
            )
            self.pages[op.layer] = LayerKV(k, v)

    @property
    def nbytes(self) -> int:
        """Bytes on the device, the scratch page included."""
        return sum(layer.k.nbytes + layer.v.nbytes for layer in self.pages.values())


def centers_of(program: Program, weights: Weights) -> dict[int, torch.Tensor]:
    """What the keys of each layer have in common, [n_kv_heads, head_dim], by layer, where there is something."""
    found: dict[int, torch.Tensor] = {}
    for i, op in enumerate(program.ops):
        if not isinstance(op, Attention):
            continue
        bias = weights.vector(bias_of_keys(program.ops, i))
        if bias is None:
            continue
        center = key_center(op, bias.cpu().numpy())
        if center is not None:
            found[op.layer] = torch.from_numpy(center).to(bias.device).view(op.n_kv_heads, op.head_dim)
    return found
