"""Each family's program on the reference backend against the same weights in `transformers`: the models are right.

Needs torch and transformers, which befit does not: run it in an environment of its own with
`pytest -m oracle tests/models`.
"""

from __future__ import annotations

import numpy as np
import pytest

from befit.backends.reference import ReferenceBackend
from befit.models.rope import llama3, plain
from support.steps import logits_of
from support.tiny import tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

N_TOKENS = 150  # beyond every original context and window below
TOLERANCE = 5e-5  # small enough to see a wrong epsilon in the q and k norms

GGUF_TO_HF = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
STARCODER2 = GGUF_TO_HF | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
GEMMA3 = GGUF_TO_HF | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def hf_state(model, family):
    """The tiny model's weights under the names, and in the order of rows, that transformers wants."""
    table = {"starcoder2": STARCODER2, "gemma3": GEMMA3}.get(family, GGUF_TO_HF)
    heads = {f"attn_{x}": h for x, h in zip("qk", head_counts(model), strict=True)}
    state = {}
    for name in model.tensors:
        if name == "rope_freqs.weight":
            continue
        value = model.weight(name)
        stem, kind = name.rsplit(".", 1)
        if stem.startswith("blk."):
            _, layer, part = stem.split(".")
            target = f"model.layers.{layer}.{table[part]}.{kind}"
            if family == "llama" and part in heads:
                value = undo_permutation(value, heads[part])
        else:
            top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
            target = f"{top[stem]}.{kind}"
        if family == "gemma3" and "norm" in stem:
            value = value - 1
        state[target] = torch.tensor(value)
    return state


def head_counts(model):
    attention = next(model.program.attentions())
    return attention.n_heads, attention.n_kv_heads


def undo_permutation(value, heads):
    """GGUF's pairs (2i, 2i+1) back to Hugging Face's (i, i + dim/2), head by head."""
    rest = value.shape[1:]
    return value.reshape(heads, -1, 2, *rest).swapaxes(1, 2).reshape(value.shape).copy()


def transformers_logits(model, family, stem, extra, tokens):
    """Logits [T, vocab] of the same model made by transformers; `extra` are arguments of its config."""
    n_heads, n_kv_heads = head_counts(model)
    config_class = getattr(transformers, f"{stem}TextConfig" if stem == "Gemma3" else f"{stem}Config")
    config = config_class(
        vocab_size=model.program.vocab_size,
        hidden_size=model.program.hidden_size,
        intermediate_size=model.metadata[f"{family}.feed_forward_length"],
        num_hidden_layers=model.program.n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=model.metadata[f"{family}.attention.key_length"],
        max_position_embeddings=model.metadata[f"{family}.context_length"],
        tie_word_embeddings="output.weight" not in model.tensors,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
        **{"norm_epsilon" if family == "starcoder2" else "rms_norm_eps": 1e-5},
        **extra,
    )
    hf = getattr(transformers, f"{stem}ForCausalLM")(config).eval()
    missing, unexpected = hf.load_state_dict(hf_state(model, family), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    hf.tie_weights()
    with torch.no_grad():
        return hf(torch.tensor(tokens)[None]).logits[0].numpy()


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
YARN_KEYS = {
    "rope__scaling__type": "yarn",
    "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 32,
}
MQA = {"n_heads": 6, "n_kv_heads": 1, "head_dim": 64, "hidden": 96}


def rope(theta=10000.0, kind="default", **more):
    return {"rope_parameters": {"rope_theta": theta, "rope_type": kind, **more}}


def llama3_factors(dim, base):
    freqs = plain(dim, base)
    return freqs / llama3(freqs, 8.0, 1.0, 4.0, 64)


# name: (family, class stem in transformers, arguments of tiny_model, arguments of the transformers config)
CASES = {
    "llama": ("llama", "Llama", {}, rope()),
    "llama untied, MQA": ("llama", "Llama", {"tied": False, **MQA}, rope()),
    "llama, linear rope": (
        "llama",
        "Llama",
        {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0, "rope__freq_base": 1e5},
        rope(1e5, "linear", factor=4.0),
    ),
    "llama, linear rope of 2023": ("llama", "Llama", {"rope__scale_linear": 4.0}, rope(kind="linear", factor=4.0)),
    "llama 3 by tensor": (
        "llama",
        "Llama",
        {"llama3_factors": llama3_factors(64, 5e5), "rope__freq_base": 5e5, "head_dim": 64},
        rope(5e5, "llama3", **LLAMA3),
    ),
    "llama 3 by formula": (
        "llama",
        "Llama",
        {
            "rope__scaling__type": "llama3",
            "rope__scaling__factor": 8.0,
            "rope__scaling__original_context_length": 64,
            "rope__freq_base": 5e5,
            "head_dim": 64,
        },
        rope(5e5, "llama3", **LLAMA3),
    ),
    "llama, yarn": ("llama", "Llama", {**YARN_KEYS, "head_dim": 64}, rope(kind="yarn", **YARN)),
    "mistral": ("llama", "Mistral", {"attention__sliding_window": 20}, {**rope(), "sliding_window": 20}),
    "qwen2": ("qwen2", "Qwen2", {"head_dim": 32, "hidden": 128}, rope()),
    "qwen2 untied, yarn": (
        "qwen2",
        "Qwen2",
        {"tied": False, "hidden": 256, "head_dim": 64, "rope__freq_base": 1e6, **YARN_KEYS},
        rope(1e6, "yarn", **YARN),
    ),
    "qwen3": ("qwen3", "Qwen3", {"head_dim": 64, "rope__freq_base": 1e6}, rope(1e6)),
    "qwen3 untied": ("qwen3", "Qwen3", {"tied": False, **MQA}, rope()),
    "starcoder2": (
        "starcoder2",
        "Starcoder2",
        {"hidden": 128, "attention__sliding_window": 24},
        {**rope(), "sliding_window": 24},
    ),
    "starcoder2, untied, no window": (
        "starcoder2",
        "Starcoder2",
        {"hidden": 128, "tied": False, "attention__sliding_window": 0},
        {**rope(), "sliding_window": None},
    ),
    "gemma3": (
        "gemma3",
        "Gemma3",
        {"n_layers": 7, "attention__sliding_window": 16, "rope__freq_base": 1e6},
        {
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3, linear rope": (
        "gemma3",
        "Gemma3",
        {
            "n_layers": 6,
            "attention__sliding_window": 16,
            "rope__freq_base": 1e6,
            "rope__scaling__type": "linear",
            "rope__scaling__factor": 8.0,
        },
        {
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3 27B's scale": (
        "gemma3",
        "Gemma3",
        {"n_layers": 62, "attention__sliding_window": 16, "rope__freq_base": 1e6, "ffn": 32},
        {
            "sliding_window": 16,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case):
    family, stem, sizes, extra = CASES[case]
    model = tiny_model(family, seed=len(case), **sizes)
    tokens = np.random.default_rng(7).integers(0, model.program.vocab_size, N_TOKENS).tolist()
    backend = ReferenceBackend(
        model.program, model.tensors, block_size=16, n_blocks=10, max_tokens=N_TOKENS, max_rows=N_TOKENS
    )
    found = logits_of(backend, tokens)
    expected = transformers_logits(model, family, stem, extra, tokens)
    assert expected.std() > 0.1
    difference = np.abs(found - expected).max()
    print(f"{case}: largest difference {difference:.1e}, deviation of the logits {expected.std():.2f}")
    assert difference < TOLERANCE
