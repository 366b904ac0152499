"""Names of tensors in Hugging Face checkpoints, and the canonical names (GGUF's) that programs use.

The names on the left are those of the modules in transformers' modeling files of each family.
"""

from __future__ import annotations

import re

_TOP = {"embed_tokens": "token_embd", "norm": "output_norm"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OF_ARCHITECTURE = {
    "starcoder2": {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
_IN_LAYER = re.compile(r"layers\.(\d{1,5})\.(.+)")
_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
"""The text part of a model that also sees is nested; the second way is that of transformers before 4.52."""
_NOT_TEXT = ("vision_tower.", "multi_modal_projector.")
_BUFFERS = ("rotary_emb.inv_freq",)


def canonical_module(architecture: str, module: str) -> str | None:
    """The canonical name of a module (a tensor's name without its last part); None for one that no family has."""
    if module in ("lm_head", "language_model.lm_head"):
        return "output"
    for prefix in _PREFIXES:
        if module.startswith(prefix):
            module = module.removeprefix(prefix)
            break
    if module in _TOP:
        return _TOP[module]
    match = _IN_LAYER.fullmatch(module)
    if match is None:
        return None
    own = _OF_ARCHITECTURE.get(architecture, {})
    part = own.get(match[2]) or _LAYER.get(match[2])
    return f"blk.{int(match[1])}.{part}" if part else None


def is_no_weight(name: str) -> bool:
    """Whether a tensor is a buffer that the sizes say already, or belongs to the part of a model that sees."""
    return name.endswith(_BUFFERS) or name.removeprefix("model.").startswith(_NOT_TEXT)
