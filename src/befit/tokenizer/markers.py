"""Spellings with a meaning that every model gives them, for files that do not say it.

Conversions differ in what they record: chat fine-tunes often list their end-of-turn marker as an ordinary added token
and name only the base model's end of text. A generation that runs past its end of turn is the result, so:

- a token whose spelling is in ALWAYS_CONTROL is a control token whatever type the file gives it; these spellings
  cannot be meant as text;
- a *control* token whose spelling is an end marker ends a generation. `</s>` and the like are end markers only if the
  file itself calls them control tokens: in Gemma's vocabulary `</s>` is the HTML tag.

llama.cpp keeps such lists too (src/llama-vocab.cpp). Unlike there, markers of files and repositories in
fill-in-the-middle prompts (`<|file_sep|>`, `<|repo_name|>`) do not end a generation: a chat may quote them.
"""

from __future__ import annotations

_SURE_ENDS = frozenset(
    {
        "<|im_end|>",  # ChatML: Qwen, SmolLM2
        "<|eot_id|>",  # Llama 3: end of turn
        "<|eom_id|>",  # Llama 3: end of message, a tool call follows
        "<|end_of_text|>",  # Llama 3, Granite
        "<|endoftext|>",  # GPT-2, StarCoder2, Qwen
        "<|end|>",  # Phi-3
        "<end_of_turn>",  # Gemma
        "<|EOT|>",  # DeepSeek-Coder
        "<｜end▁of▁sentence｜>",  # DeepSeek
        "▁<EOT>",  # CodeLlama: end of a fill in the middle
    }
)
_ENDS_IF_CONTROL = frozenset({"</s>", "<eos>", "<EOT>", "_<EOT>", "[EOS]", "[EOT]"})
_OTHER_CONTROL = frozenset(
    {
        "<|im_start|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<start_of_turn>",
        "<｜begin▁of▁sentence｜>",
        *(f"<|fim_{part}|>" for part in ("prefix", "suffix", "middle", "pad")),  # Qwen2.5-Coder
        "<|repo_name|>",
        "<|file_sep|>",
        *(f"<fim_{part}>" for part in ("prefix", "suffix", "middle", "pad")),  # StarCoder2, Granite
        *(f"<fim-{part}>" for part in ("prefix", "suffix", "middle", "pad")),
        *(f"<｜fim▁{part}｜>" for part in ("begin", "hole", "end")),  # DeepSeek-Coder
        "<|file_separator|>",  # CodeGemma
        "▁<PRE>",  # CodeLlama
        "▁<SUF>",
        "▁<MID>",
    }
)
ALWAYS_CONTROL = _SURE_ENDS | _OTHER_CONTROL


def is_end(spelling: str) -> bool:
    """Whether a control token of this spelling ends a generation."""
    return spelling in _SURE_ENDS or spelling in _ENDS_IF_CONTROL
