"""Everything that is fuzzed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import Target
from files import CONFIG_WORDS, folder_seeds, gguf_seeds, make_folder, make_gguf, make_safetensors, safetensors_seeds
from over_http import REQUEST_WORDS, http_seeds, make_http, make_request, request_seeds
from structures import (
    GRAMMAR_WORDS,
    PATTERN_WORDS,
    SCHEMA_WORDS,
    grammar_seeds,
    make_structure,
    regex_seeds,
    schema_seeds,
)
from texts import TEMPLATE_WORDS, make_template, make_tokenizer, template_seeds, tokenizer_seeds
from tool_calls import TOOL_WORDS, make_tools, tools_seeds

TARGETS: dict[str, Target] = {
    "gguf": Target(make_gguf, gguf_seeds, longest=1 << 16),
    "safetensors": Target(make_safetensors, safetensors_seeds),
    "folder": Target(make_folder, folder_seeds, CONFIG_WORDS, longest=1 << 16),
    "template": Target(make_template, template_seeds, TEMPLATE_WORDS, longest=1 << 14),
    "schema": Target(make_structure("json"), schema_seeds, SCHEMA_WORDS, longest=1 << 14),
    "regex": Target(make_structure("regex"), regex_seeds, PATTERN_WORDS),
    "grammar": Target(make_structure("grammar"), grammar_seeds, GRAMMAR_WORDS),
    "tools": Target(make_tools, tools_seeds, TOOL_WORDS, longest=1 << 14),
    "tokenizer": Target(make_tokenizer, tokenizer_seeds),
    "request": Target(make_request, request_seeds, REQUEST_WORDS, longest=1 << 14),
    "http": Target(make_http, http_seeds, longest=1 << 15),
}
