"""Which reader a quantised Hugging Face checkpoint needs, by what its configuration says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from befit.errors import UnsupportedModel
from befit.weights.packed import Reader

_MODULES = {
    "awq": "awq",
    "gptq": "gptq",
    "compressed-tensors": "compressed_tensors",
    "bitsandbytes": "bitsandbytes",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
}
OTHER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where quantisers wrote their settings before they went into config.json."""


def reader_of(settings: Mapping[str, Any], where: str) -> tuple[str, Reader]:
    """The name of the method, and its reader. Raises UnsupportedModel for methods and variants that befit lacks."""
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"
    if not isinstance(method, str) or method not in _MODULES:
        raise UnsupportedModel(
            f"{where}: the weights are quantised by {method!r:.60}; befit reads {', '.join(_MODULES)}, and GGUF files."
        )
    module = import_module(f"befit.weights.{_MODULES[method]}")
    return method, cast(Reader, module.reader(settings, where))
