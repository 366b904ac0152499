"""However keys and values are kept, a reply does not depend on what else runs, on preemption or on shared prefixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from befit import backends
from befit.config import EngineConfig
from befit.engine.load import LoadedModel
from befit.llm import LLM
from befit.sampling import SamplingParams
from support.tiny import tiny_model


class Numbers:
    """Tokens that nobody reads."""

    vocab_size = 80
    eos_ids: frozenset[int] = frozenset()
    bos_id = None
    adds_bos = False

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return " ".join(map(str, ids))

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        return f"{token} ".encode()

    def is_special(self, token: int) -> bool:
        return False


def small_llm(kv_dtype: str, *, n_blocks: int) -> LLM:
    tiny = tiny_model("qwen2", storage="q8_0")
    sizes: dict[str, Any] = {
        "block_size": 16,
        "n_blocks": n_blocks,
        "threads": 2,
        "kv_dtype": kv_dtype,
    }
    native = backends.create("native", tiny.program, tiny.tensors, **sizes, max_tokens=64, max_rows=80)
    config = EngineConfig(
        **sizes,
        ctx=256,
        max_seqs=8,
        token_budget=64,
        backend="native",
        prefix_cache=True,
        max_queue=100,
        speculation="lookup",
        draft=None,
    )
    return LLM(LoadedModel("tiny", Path("tiny.gguf"), {}, tiny.program, Numbers(), native, config), progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("kv_dtype", ["f16", "int8"])
def test_replies_are_the_same_alone_and_in_a_crowd(kv_dtype: str) -> None:
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 80, 40).tolist()
    prompts = [shared + rng.integers(0, 80, n).tolist() for n in (1, 9, 20, 60, 25)] + [shared[:33]]
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=50, ignore_eos=True)
    crowd = small_llm(kv_dtype, n_blocks=20).generate(prompts, params)  # too few pages for all of them at once
    for prompt, reply in zip(prompts, crowd, strict=True):
        [alone] = small_llm(kv_dtype, n_blocks=16).generate([prompt], params)
        assert reply.outputs[0].token_ids == alone.outputs[0].token_ids
        assert len(alone.outputs[0].token_ids) == 50
