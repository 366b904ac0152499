"""Fields that some clients send to OpenAI endpoints in another server's spelling, put into OpenAI's.

Editor extensions that let the user choose a server often keep the body of the one that they were written for: Ollama's
`options` object, llama.cpp's `n_predict`. A field under its own name wins over its translation.
"""

from __future__ import annotations

from typing import Any

from befit.errors import UnsupportedField

_OPTIONS = {
    "frequency_penalty": "frequency_penalty",
    "min_p": "min_p",
    "num_predict": "max_tokens",
    "presence_penalty": "presence_penalty",
    "repeat_penalty": "repetition_penalty",
    "seed": "seed",
    "stop": "stop",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "typical_p": "typical_p",
}
_ALIASES = {"n_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
_UNLIMITED = -1
"""What n_predict and num_predict say for "no limit"."""


def translate(body: Any) -> Any:
    """The body with `options`, `n_predict` and `repeat_penalty` under OpenAI's names. Raises UnsupportedField for an
    option that has none."""
    if not isinstance(body, dict) or not (_ALIASES.keys() | {"options"}) & body.keys():
        return body
    body = dict(body)
    found = {_ALIASES[name]: body.pop(name) for name in _ALIASES if name in body}
    options = body.pop("options", None)
    if isinstance(options, dict):
        for name, value in options.items():
            if name not in _OPTIONS:
                raise UnsupportedField(f"options.{str(name)[:60]} is not supported here; leave it out.", "options")
            found[_OPTIONS[name]] = value
    elif options is not None:
        raise UnsupportedField("options is not an object; send its fields in the request itself.", "options")
    for name, value in found.items():
        if body.get(name) is None and not (name == "max_tokens" and value == _UNLIMITED):
            body[name] = value
    return body
