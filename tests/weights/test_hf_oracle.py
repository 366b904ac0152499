"""Folders that transformers wrote give the logits that transformers computes.

Needs torch and transformers, which befit does not: run it in an environment of its own with
`pytest -m oracle tests/weights`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from befit.backends.reference import ReferenceBackend
from befit.models import describe
from befit.weights.hf_folder import HFFolder
from support.steps import logits_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 96,
    "max_position_embeddings": 256,
}
N_TOKENS = 150
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, own head, biases": ("Llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "llama3 rope": ("Llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}}),
    "linear rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "yarn": ("Qwen2", {"rope_parameters": YARN}),
    "yarn with a factor of its own": ("Qwen2", {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "mistral": ("Mistral", {"sliding_window": 32}),
    "qwen2": ("Qwen2", {}),
    "qwen2 with windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "starcoder2": ("Starcoder2", {"sliding_window": 32}),
    "gemma3": ("Gemma3", {"sliding_window": 32, "query_pre_attn_scalar": 24, "num_hidden_layers": 7}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("parts", ["1GB", "100KB"], ids=["one file", "in parts"])
def test_logits_are_those_of_transformers(name: str, parts: str, tmp_path: Path) -> None:
    family, changes = MODELS[name]
    suffix = "TextConfig" if family == "Gemma3" else "Config"
    config = getattr(transformers, family + suffix)(**{**SIZES, **changes})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval().float()
    for parameter in model.parameters():  # norms and biases that matter
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path, max_shard_size=parts)
    assert (tmp_path / "model.safetensors.index.json").exists() == (parts != "1GB")
    tokens = torch.randint(0, SIZES["vocab_size"], (1, N_TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(tokens).logits[0].numpy()
    with HFFolder.open(tmp_path, tokenizer=False) as folder:
        program = describe(folder.metadata, folder.shapes)
        backend = ReferenceBackend(
            program, folder.tensors, block_size=16, n_blocks=16, max_tokens=N_TOKENS, max_rows=N_TOKENS
        )
        found = logits_of(backend, tokens[0].tolist())
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
