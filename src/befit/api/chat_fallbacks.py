"""Chat templates for models whose file has none: base models, and old conversions.

The vocabulary tells the family, since a family's turn markers are tokens that only it has. A base model was never
trained on turns; these forms are what its instruct relatives use, and a model without relatives gets plain headings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from befit.tokenizer.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Fallback:
    """One form; users ask for it by `slug`. It is taken by itself when the vocabulary has all of `tokens` and, if
    given, is of that kind."""

    name: str
    slug: str
    template: str
    tokens: tuple[str, ...] = ()
    vocabulary: str | None = None


_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

_LLAMA3 = """\
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}
"""

_GEMMA = """\
{%- for message in messages -%}
{%- if message.role not in ('user', 'assistant') -%}
{{ raise_exception('Gemma has no turns of the role ' + message.role) }}
{%- endif -%}
{%- set role = 'model' if message.role == 'assistant' else 'user' -%}
{{ '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

_LLAMA2 = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- for message in (messages[1:] if messages[0].role == 'system' else messages) -%}
{%- if message.role != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{ raise_exception('Llama 2 wants user and assistant in turn, beginning with user') }}
{%- endif -%}
{%- if message.role == 'user' -%}
{%- if not loop.first -%}{{ bos_token }}{%- endif -%}
{{ '[INST] ' + ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if system and loop.first else '') }}
{{- message.content | trim + ' [/INST]' }}
{%- else -%}
{{ ' ' + message.content | trim + ' ' + eos_token }}
{%- endif -%}
{%- endfor -%}
"""

_DEEPSEEK_CODER = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content + '\\n' }}
{%- elif message.role == 'user' -%}{{ '### Instruction:\\n' + message.content + '\\n' }}
{%- elif message.role == 'assistant' -%}{{ '### Response:\\n' + message.content + '\\n<|EOT|>\\n' }}
{%- else -%}{{ raise_exception('DeepSeek-Coder has no turns of the role ' + message.role) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\\n' }}{%- endif -%}
"""

_PLAIN = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content + '\\n\\n' }}
{%- elif message.role in ('user', 'assistant') -%}
{{ '### ' + message.role | capitalize + ':\\n' + message.content + '\\n\\n' }}
{%- else -%}{{ raise_exception('the plain headings have no turns of the role ' + message.role) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Assistant:\\n' }}{%- endif -%}
"""

FALLBACKS = (
    Fallback("ChatML", "chatml", _CHATML, ("<|im_start|>", "<|im_end|>")),
    Fallback("Llama 3", "llama3", _LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    Fallback("Gemma", "gemma", _GEMMA, ("<start_of_turn>", "<end_of_turn>")),
    Fallback("DeepSeek-Coder", "deepseek-coder", _DEEPSEEK_CODER, ("<|EOT|>", "<｜fim▁hole｜>")),
    Fallback("Llama 2", "llama2", _LLAMA2, ("<s>", "</s>"), vocabulary="llama"),
)
PLAIN = Fallback("plain headings", "plain", _PLAIN)


def fallback(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[str, str]:
    """(the template for a model that has none, what it is and why)"""
    kind = metadata.get("tokenizer.ggml.model")
    for form in FALLBACKS:
        if form.vocabulary in (None, kind) and all(tokenizer.token_id(token) is not None for token in form.tokens):
            why = f"has {form.tokens[0]}"
            break
    else:
        form, why = PLAIN, "has the turn markers of no family befit knows"
    return _with_bos(
        form, tokenizer
    ), f"befit's {form.name}: the model file has no chat template, and its vocabulary {why}"


def family_names() -> list[str]:
    """What the forms are called when they are asked for."""
    return [form.slug for form in (*FALLBACKS, PLAIN)]


def of_family(slug: str, tokenizer: Tokenizer) -> str | None:
    """The template of one form, whatever the vocabulary has, or None for another name."""
    form = next((form for form in (*FALLBACKS, PLAIN) if form.slug == slug), None)
    return None if form is None else _with_bos(form, tokenizer)


def _with_bos(form: Fallback, tokenizer: Tokenizer) -> str:
    return ("{{- bos_token -}}\n" if tokenizer.adds_bos else "") + form.template
