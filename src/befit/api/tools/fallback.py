"""Tools for chat templates that have no place for them: described in the system message, called as text.

The system message gets, behind what it says already, one line of JSON a tool and how to call it. Calls in earlier
replies become their text, and results of tools user messages between `<tool_response>` and `</tool_response>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from befit.api.tools.formats import ToolFormat
from befit.api.tools.request import ToolUse

_EXAMPLE = "<the arguments as a JSON object>"


def without_tools(messages: Sequence[Mapping[str, Any]], form: ToolFormat, use: ToolUse | None) -> list[dict[str, Any]]:
    """Messages (whose contents are strings) that say with text what `use` and the calls and results in them say."""
    plain = [_plain(message, form) for message in messages]
    if use is None:
        return plain
    told = _description(form, use)
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{told}".lstrip()}, *plain[1:]]
    return [{"role": "system", "content": told}, *plain]


def _plain(message: Mapping[str, Any], form: ToolFormat) -> dict[str, Any]:
    if message["role"] in ("tool", "function"):
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    if not calls:
        return rest
    written = form.write([(call["function"]["name"], _json(call["function"].get("arguments"))) for call in calls])
    return {**rest, "content": f"{message['content']}\n{written}".lstrip()}


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


def _description(form: ToolFormat, use: ToolUse) -> str:
    lines = [
        "You can call functions. Each of these lines describes one as JSON:",
        *(json.dumps(tool["function"], ensure_ascii=False) for tool in use.raw),
        "",
        "To call one, write nothing but this, with its name and arguments:",
        form.write([("<name>", _EXAMPLE)]),
    ]
    if use.several:
        lines.append("Write several of them, one after the other, to call several functions.")
    lines.append("The result comes back between <tool_response> and </tool_response>.")
    if use.mode == "auto":
        lines.append("If no function is of use, answer in words.")
    elif len(use.callable) == 1:
        lines.append(f"Now call the function {use.callable[0].name}.")
    else:
        lines.append("Now call a function.")
    return "\n".join(lines)
