"""Graphics cards by name: memory, bandwidth, and how fast their matrix units multiply.

Sources: NVIDIA's data sheets (T4, V100, A10, A100, RTX A6000, L4, L40S, H100 SXM, H200) and, for GeForce cards, product
pages and architecture white papers (Ampere GA102, Ada, RTX Blackwell). Rates are dense FP16 with FP32 accumulation.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from befit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Card:
    """memory in GiB, bandwidth in GB/s, and tera floating-point operations a second."""

    name: str
    memory_gib: int
    bandwidth_gb_s: float
    tflops: float


CARDS = (
    Card("RTX 3060", 12, 360, 25),
    Card("RTX 3070", 8, 448, 41),
    Card("RTX 3080", 10, 760, 60),
    Card("RTX 3090", 24, 936, 71),
    Card("RTX 4060 Laptop", 8, 256, 23),
    Card("RTX 4060", 8, 272, 30),
    Card("RTX 4060 Ti 8G", 8, 288, 44),
    Card("RTX 4060 Ti 16G", 16, 288, 44),
    Card("RTX 4070", 12, 504, 58),
    Card("RTX 4070 Super", 12, 504, 71),
    Card("RTX 4070 Ti", 12, 504, 80),
    Card("RTX 4070 Ti Super", 16, 672, 88),
    Card("RTX 4080", 16, 717, 97),
    Card("RTX 4080 Super", 16, 736, 104),
    Card("RTX 4090", 24, 1008, 165),
    Card("RTX 5060", 8, 448, 38),
    Card("RTX 5060 Ti 16G", 16, 448, 47),
    Card("RTX 5070", 12, 672, 62),
    Card("RTX 5070 Ti", 16, 896, 88),
    Card("RTX 5080", 16, 960, 113),
    Card("RTX 5090", 32, 1792, 209),
    Card("RTX A6000", 48, 768, 155),
    Card("T4", 16, 320, 65),
    Card("V100-16G", 16, 900, 125),
    Card("V100-32G", 32, 900, 125),
    Card("A10", 24, 600, 125),
    Card("A100-40G", 40, 1555, 312),
    Card("A100-80G", 80, 2039, 312),
    Card("L4", 24, 300, 121),
    Card("L40S", 48, 864, 362),
    Card("H100-80G", 80, 3350, 989),
    Card("H200", 141, 4800, 989),
)

_NOISE = re.compile(r"nvidia|geforce|tesla|graphics|gpu|sxm\d*|pcie|hbm\d*e?|gb\b|gib\b|[^a-z0-9]+")


def find(text: str) -> Card:
    """The card that a user or a driver calls `text`. Raises ConfigError with the names that come close."""
    wanted = _plain(text)
    by_name = {_plain(card.name): card for card in CARDS}
    if wanted in by_name:
        return by_name[wanted]
    # "NVIDIA A100-SXM4-80GB" spells the memory as a part of the name, "NVIDIA H200" or "H100" leave it out.
    longer = [card for name, card in by_name.items() if name.removesuffix("g").startswith(wanted)]
    if len(longer) == 1:
        return longer[0]
    known = [card.name for card in CARDS]
    names = [card.name for card in longer] or difflib.get_close_matches(text, known, n=4, cutoff=0.4)
    hint = f" Did you mean {' or '.join(names)}?" if names else ""
    raise ConfigError(
        f"no card is called {text!r}.{hint} Known cards: {', '.join(known)}; or give the memory alone, with --memory."
    )


def _plain(text: str) -> str:
    return _NOISE.sub("", re.sub(r"(\d+)\s*gi?b\b", r"\1g", text.lower()))
