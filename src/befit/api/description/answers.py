"""What routes answer with 200, as short notes that become JSON schemas: `schema` says how they are read.

Tests compare them with real answers, in which nothing may be that is not here.
"""

from __future__ import annotations

from typing import Any

JSON, EVENTS, LINES, TEXT = "application/json", "text/event-stream", "application/x-ndjson", "text/plain"

_TYPES: dict[str, Any] = {"str": "string", "int": "integer", "num": "number", "bool": "boolean", "null": "null"}


def schema(note: Any) -> dict[str, Any]:
    """A note as a schema.

    "str", "int", "num", "bool"   a value of the type; with "?" behind it, or null
    "any"                         anything
    "'a' 'b'"                     one of these strings
    [note]                        a list
    {"name": note}                an object; a name with "?" behind it may be missing; "*" stands for any other
    (note, note)                  any of them
    """
    if isinstance(note, list):
        return {"type": "array", "items": schema(note[0])}
    if isinstance(note, tuple):
        return {"anyOf": [schema(one) for one in note]}
    if isinstance(note, dict):
        named = {name: one for name, one in note.items() if name != "*"}
        made: dict[str, Any] = {
            "type": "object",
            "properties": {name.removesuffix("?"): schema(one) for name, one in named.items()},
            "required": [name for name in named if not name.endswith("?")],
        }
        if "*" in note:
            made["additionalProperties"] = schema(note["*"])
        return made
    if note == "any":
        return {}
    if note.startswith("'"):
        return {"enum": [word.strip("'") for word in note.split()]}
    kind = _TYPES[note.removesuffix("?")]
    return {"type": [kind, "null"] if note.endswith("?") else kind}


_USAGE: dict[str, Any] = {
    "prompt_tokens": "int",
    "completion_tokens": "int",
    "total_tokens": "int",
    "prompt_tokens_details": {"cached_tokens": "int"},
}
_ENVELOPE: dict[str, Any] = {
    "id": "str",
    "object": "str",
    "created": "int",
    "model": "str",
    "system_fingerprint": "str",
}
_IDS: dict[str, Any] = {"token_ids?": ["int"], "prompt_token_ids?": ["int"]}
_END: dict[str, Any] = {"finish_reason": "str?", "stop_reason?": ("str?", "int")}
_CALL: dict[str, Any] = {
    "id?": "str",
    "index?": "int",
    "type?": "str",
    "function": {"name?": "str", "arguments": "str"},
}
_THOUGHTS: dict[str, Any] = {"reasoning?": "str", "reasoning_content?": "str"}
_DELTA: dict[str, Any] = {"role?": "str", "content?": "str?", **_THOUGHTS, "tool_calls?": [_CALL]}
_SCORES = (
    "null",
    {
        "content": [
            {"token": "str", "logprob": "num", "bytes": ("null", ["int"]), "top_logprobs": ["any"]},
        ],
        "refusal?": "any",
    },
)
_CHAT: dict[str, Any] = {
    **_ENVELOPE,
    "choices": [
        {
            "index": "int",
            "message": {
                "role": "'assistant'",
                "content": "str?",
                "refusal": "null",
                **_THOUGHTS,
                "tool_calls?": [_CALL],
            },
            "logprobs": _SCORES,
            **_END,
            **_IDS,
        }
    ],
    "usage": _USAGE,
    "prompt_logprobs?": "any",
    "prompt_token_ids?": ["int"],
}
_CHAT_CHUNK: dict[str, Any] = {
    **_ENVELOPE,
    "choices": [{"index": "int", "delta": _DELTA, "logprobs": _SCORES, **_END, **_IDS}],
    "usage?": ("null", _USAGE),
    "prompt_token_ids?": ["int"],
}
_COMPLETION_CHOICE: dict[str, Any] = {
    "index": "int",
    "text": "str",
    "logprobs": (
        "null",
        {"tokens": ["str"], "token_logprobs": ["num?"], "top_logprobs": "any", "text_offset": ["int"]},
    ),
    **_END,
    "prompt_logprobs?": "any",
    **_IDS,
}
_COMPLETION: dict[str, Any] = {**_ENVELOPE, "choices": [_COMPLETION_CHOICE], "usage": _USAGE}
_COMPLETION_CHUNK: dict[str, Any] = {**_ENVELOPE, "choices": [_COMPLETION_CHOICE], "usage?": ("null", _USAGE)}
_MODEL: dict[str, Any] = {
    "id": "str",
    "object": "'model'",
    "created": "int",
    "owned_by": "str",
    "root": "str",
    "parent": "null",
    "max_model_len": "int?",
}
_CLAUDE_MODEL: dict[str, Any] = {"type": "'model'", "id": "str", "display_name": "str", "created_at": "str", "*": "any"}
_MODELS = (
    {"object": "'list'", "data": [_MODEL]},
    {"data": [_CLAUDE_MODEL], "has_more": "bool", "first_id": "str?", "last_id": "str?"},
)

_RESPONSE: dict[str, Any] = {
    "id": "str",
    "object": "'response'",
    "created_at": "int",
    "completed_at": "int?",
    "status": "str",
    "background": "bool",
    "error": "any",
    "incomplete_details": ("null", {"reason": "str"}),
    "instructions": "str?",
    "max_output_tokens": "int?",
    "max_tool_calls": "int?",
    "metadata": {"*": "str"},
    "model": "str",
    "output": [{"id": "str", "type": "str", "*": "any"}],
    "parallel_tool_calls": "bool",
    "previous_response_id": "str?",
    "reasoning": {"effort": "str?", "summary": "str?"},
    "service_tier": "str",
    "store": "bool",
    "temperature": "num",
    "text": {"format": {"type": "str", "*": "any"}},
    "tool_choice": "any",
    "tools": ["any"],
    "top_logprobs": "int",
    "top_p": "num",
    "truncation": "str",
    "usage": (
        "null",
        {
            "input_tokens": "int",
            "input_tokens_details": {"cached_tokens": "int", "cache_write_tokens": "int"},
            "output_tokens": "int",
            "output_tokens_details": {"reasoning_tokens": "int"},
            "total_tokens": "int",
        },
    ),
    "prompt_cache_key": "str?",
    "prompt_cache_retention": "str?",
    "safety_identifier": "str?",
    "user": "str?",
}

_LLAMA: dict[str, Any] = {
    "index?": "int",
    "content?": "str",
    "tokens?": ["int"],
    "id_slot?": "int",
    "stop?": "bool",
    "model?": "str",
    "tokens_predicted?": "int",
    "tokens_evaluated?": "int",
    "generation_settings?": {"*": "any"},
    "prompt?": "str",
    "has_new_line?": "bool",
    "truncated?": "bool",
    "tokens_trimmed?": {"prefix": "int", "suffix": "int", "extra": "int"},
    "stop_type?": "'none' 'eos' 'word' 'limit'",
    "stopping_word?": "str",
    "tokens_cached?": "int",
    "timings?": {"*": "num"},
}
"""A request may choose among them (`response_fields`)."""
_LLAMA_ROUTE: dict[str, Any] = {JSON: _LLAMA, EVENTS: _LLAMA}

_BLOCK: dict[str, Any] = {"type": "'text' 'thinking' 'tool_use'", "*": "any"}
_CLAUDE_USAGE: dict[str, Any] = {"input_tokens": "int", "output_tokens": "int", "*": "int"}
_MESSAGE: dict[str, Any] = {
    "id": "str",
    "type": "'message'",
    "role": "'assistant'",
    "model": "str",
    "content": [_BLOCK],
    "stop_reason": "str?",
    "stop_sequence": "str?",
    "usage": _CLAUDE_USAGE,
}

_DURATIONS: dict[str, Any] = {
    f"{name}?": "int"
    for name in (
        *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
        *("eval_count", "eval_duration"),
    )
}
_OLLAMA: dict[str, Any] = {
    "model": "str",
    "created_at": "str",
    "done": "bool",
    "done_reason?": "str",
    **_DURATIONS,
    "logprobs?": "any",
}
_OLLAMA_GENERATE: dict[str, Any] = {**_OLLAMA, "response": "str", "thinking?": "str", "context?": ["int"]}
_OLLAMA_CHAT: dict[str, Any] = {
    **_OLLAMA,
    "message": {"role": "str", "content": "str", "thinking?": "str", "tool_calls?": ["any"]},
}
_DETAILS: dict[str, Any] = {
    "parent_model": "str",
    "format": "str",
    "family": "str",
    "families": ("null", ["str"]),
    "parameter_size": "str",
    "quantization_level": "str",
}
_STORED: dict[str, Any] = {
    "name": "str",
    "model": "str",
    "modified_at": "str",
    "size": "int",
    "digest": "str",
    "details": _DETAILS,
}
_STATUS: dict[str, Any] = {"status": "str", "digest?": "str", "total?": "int", "completed?": "int", "error?": "str"}
_PROGRESS: dict[str, Any] = {JSON: _STATUS, LINES: _STATUS}

_TGI_TOKEN: dict[str, Any] = {"id": "int", "text": "str", "logprob": "num?", "special": "bool"}
_TGI_PREFILL: dict[str, Any] = {"id": "int", "text": "str", "logprob": "num?"}
_TGI_ENDING: dict[str, Any] = {
    "finish_reason": "'length' 'eos_token' 'stop_sequence'",
    "generated_tokens": "int",
    "seed": "int?",
}
_TGI_DETAILS: dict[str, Any] = {
    **_TGI_ENDING,
    "prefill": [_TGI_PREFILL],
    "tokens": [_TGI_TOKEN],
    "top_tokens?": [[_TGI_TOKEN]],
}
_TGI: dict[str, Any] = {
    "generated_text": "str",
    "details?": {**_TGI_DETAILS, "best_of_sequences?": [{"generated_text": "str", **_TGI_DETAILS}]},
}
_TGI_EVENT: dict[str, Any] = {
    "index": "int",
    "token": _TGI_TOKEN,
    "top_tokens?": [_TGI_TOKEN],
    "generated_text": "str?",
    "details": ("null", {**_TGI_ENDING, "input_length?": "int"}),
}
_TGI_PLACES = [{"id": "int", "text": "str", "start": "int", "stop": "int"}]
_CHATS: dict[str, Any] = {JSON: _CHAT, EVENTS: _CHAT_CHUNK}

ANSWERS: dict[tuple[str, str], dict[str, Any]] = {
    ("get", "/v1/models"): {JSON: _MODELS},
    ("get", "/models"): {JSON: _MODELS},
    ("get", "/v1/models/{name}"): {JSON: (_MODEL, _CLAUDE_MODEL)},
    ("post", "/v1/completions"): {JSON: _COMPLETION, EVENTS: _COMPLETION_CHUNK},
    ("post", "/v1/chat/completions"): _CHATS,
    ("post", "/chat/completions"): _CHATS,
    ("post", "/v1/embeddings"): {
        JSON: {
            "id": "str",
            "object": "'list'",
            "created": "int",
            "model": "str",
            "data": [{"object": "'embedding'", "index": "int", "embedding": (["num"], "str")}],
            "usage": {"prompt_tokens": "int", "total_tokens": "int"},
        }
    },
    ("post", "/tokenize"): {
        JSON: (
            {"count": "int", "max_model_len": "int", "tokens": ["int"], "token_strs?": ("null", ["str"])},
            _TGI_PLACES,
        )
    },
    ("post", "/detokenize"): {JSON: {"prompt": "str", "content": "str"}},
    ("post", "/v1/responses"): {JSON: _RESPONSE, EVENTS: {"type": "str", "sequence_number": "int", "*": "any"}},
    ("post", "/v1/responses/input_tokens"): {JSON: {"object": "str", "input_tokens": "int"}},
    ("get", "/v1/responses/{name}"): {JSON: _RESPONSE},
    ("delete", "/v1/responses/{name}"): {JSON: {"id": "str", "object": "str", "deleted": "bool"}},
    ("post", "/v1/responses/{name}/cancel"): {JSON: _RESPONSE},
    ("get", "/v1/responses/{name}/input_items"): {
        JSON: {
            "object": "'list'",
            "data": [{"id": "str", "type": "str", "*": "any"}],
            "first_id": "str?",
            "last_id": "str?",
            "has_more": "bool",
        }
    },
    ("post", "/infill"): _LLAMA_ROUTE,
    ("post", "/completion"): _LLAMA_ROUTE,
    ("get", "/props"): {
        JSON: {
            "default_generation_settings": {"params": {"*": "any"}, "n_ctx": "int"},
            "total_slots": "int",
            "model_alias": "str",
            "model_path": "str",
            "modalities": {"*": "bool"},
            "endpoint_slots": "bool",
            "endpoint_props": "bool",
            "endpoint_metrics": "bool",
            "chat_template": "str",
            "chat_template_caps": {"*": "bool"},
            "chat_template_source": "str",
            "infill": ("null", {"*": "any"}),
            "bos_token": "str",
            "eos_token": "str",
            "build_info": "str",
            "is_sleeping": "bool",
        }
    },
    ("get", "/slots"): {JSON: [{"id": "int", "n_ctx": "int", "speculative": "bool", "is_processing": "bool"}]},
    ("post", "/apply-template"): {JSON: {"prompt": "str"}},
    ("post", "/v1/messages"): {JSON: _MESSAGE, EVENTS: {"type": "str", "*": "any"}},
    ("post", "/v1/messages/count_tokens"): {JSON: {"input_tokens": "int"}},
    ("post", "/api/generate"): {JSON: _OLLAMA_GENERATE, LINES: _OLLAMA_GENERATE},
    ("post", "/api/chat"): {JSON: _OLLAMA_CHAT, LINES: _OLLAMA_CHAT},
    ("post", "/api/embed"): {JSON: {"model": "str", "embeddings": [["num"]], **_DURATIONS}},
    ("post", "/api/embeddings"): {JSON: {"embedding": ["num"]}},
    ("get", "/api/tags"): {JSON: {"models": [_STORED]}},
    ("get", "/api/ps"): {
        JSON: {"models": [{**_STORED, "size_vram": "int", "expires_at": "str", "context_length": "int"}]}
    },
    ("post", "/api/show"): {
        JSON: {
            "modelfile": "str",
            "parameters": "str",
            "template": "str",
            "license": "str",
            "system?": "str",
            "details": _DETAILS,
            "model_info": {"*": "any"},
            "capabilities": ["str"],
            "modified_at": "str",
        }
    },
    ("post", "/api/pull"): _PROGRESS,
    ("post", "/api/create"): _PROGRESS,
    ("post", "/api/copy"): {},
    ("delete", "/api/delete"): {},
    ("head", "/api/blobs/{digest}"): {},
    ("post", "/api/blobs/{digest}"): {},
    ("get", "/api/version"): {JSON: {"version": "str", "befit": "str"}},
    ("post", "/generate"): {JSON: _TGI},
    ("post", "/generate_stream"): {EVENTS: _TGI_EVENT},
    ("post", "/"): {JSON: [_TGI], EVENTS: _TGI_EVENT},
    ("post", "/invocations"): {JSON: [_TGI], EVENTS: _TGI_EVENT},
    ("post", "/chat_tokenize"): {JSON: {"tokenize_response": _TGI_PLACES, "templated_text": "str"}},
    ("get", "/info"): {
        JSON: {
            "model_id": "str",
            "model_sha": "null",
            "model_pipeline_tag": "str",
            **dict.fromkeys(
                (
                    *("max_concurrent_requests", "max_best_of", "max_stop_sequences", "max_input_tokens"),
                    *("max_total_tokens", "max_client_batch_size", "validation_workers", "payload_limit"),
                ),
                "int",
            ),
            "router": "str",
            "version": "str",
            "sha": "null",
            "docker_label": "null",
            "chat_template_source": "str",
        }
    },
    ("get", "/health"): {JSON: {"status": "'ok'"}},
    ("get", "/v1/health"): {JSON: {"status": "'ok'"}},
    ("get", "/version"): {JSON: {"version": "str"}},
    ("get", "/metrics"): {TEXT: "str"},
    ("get", "/stats"): {
        JSON: {
            "time": "num",
            "running": "int",
            "waiting": "int",
            "kv_usage": "num",
            "prompt_tokens_total": "int",
            "cached_tokens_total": "int",
            "output_tokens_total": "int",
            "time_to_first_token": {"count": "int", "sum": "num"},
        }
    },
}
"""By method and path; what is noted of a stream is each of its events' `data`, or each line."""

_STREAMS: dict[str, Any] = {
    EVENTS: "Server-sent events; the schema is of each, but for a closing `[DONE]` of OpenAI's routes.",
    LINES: "A JSON object a line; the schema is of each.",
}


def answer(method: str, path: str) -> dict[str, Any]:
    """The description of a route's 200. KeyError for one without."""
    noted = ANSWERS[method, path]
    streams = [_STREAMS[kind] for kind in noted if kind in _STREAMS]
    made: dict[str, Any] = {"description": " ".join(["The answer.", *streams])}
    if noted:
        made["content"] = {
            kind: {"schema": _event(note) if kind == EVENTS else schema(note)} for kind, note in noted.items()
        }
    return made


def _event(note: Any) -> dict[str, Any]:
    """A server-sent event, as OpenAPI 3.2 describes one."""
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": schema(note)}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}
