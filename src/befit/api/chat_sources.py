"""Where a chat template comes from.

The first that there is: what the user gave (a file, one of the model's named templates, or a family's name); the model
file's own; a file beside the model file, as Hugging Face folders have them; the fallback for the model's family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from befit.api.chat_fallbacks import fallback, family_names, of_family
from befit.errors import ConfigError
from befit.tokenizer.base import Tokenizer

KEY = "tokenizer.chat_template"
BESIDE = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""In the order in which transformers prefers them."""


@dataclass(frozen=True, slots=True)
class Source:
    """A template, what it is and why it is the one, and the template for requests with tools if that is another."""

    text: str
    why: str
    tool_use: str | None = None


def choose(
    metadata: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    given: str | Path | None = None,
    beside: Path | None = None,
    created: str | None = None,
) -> Source:
    """The template to use. given: what `--chat-template` says; beside: the model file, or the folder it is; created:
    what the model was created with.

    Raises ConfigError for a file that cannot be read or holds no template, and for a name that nothing has.
    """
    if given is not None:
        return _given(metadata, tokenizer, given)
    if created:
        return Source(created, "what the model was created with")
    own = _own(metadata)
    if own is None and beside is not None:
        own = _beside(beside if beside.is_dir() else beside.parent)
    return own if own is not None else Source(*fallback(metadata, tokenizer))


def _given(metadata: Mapping[str, Any], tokenizer: Tokenizer, given: str | Path) -> Source:
    path, name = Path(given), str(given)
    if path.is_file():
        source = _from_file(path, f"the file {path}")
        if source is None:
            raise ConfigError(f"The file {path} holds no chat template: it has no key chat_template.")
        return source
    named = _named(metadata)
    if name in named:
        return Source(named[name], f"the model's own ({KEY}.{name}), as asked for")
    text = of_family(name, tokenizer)
    if text is not None:
        return Source(text, f"befit's {name}, as asked for")
    names = f"the model's own templates are called {', '.join(sorted(named))}; " if named else ""
    raise ConfigError(
        f"The chat template {name} cannot be read: there is no such file; {names}befit's are called "
        f"{', '.join(family_names())}."
    )


def _own(metadata: Mapping[str, Any]) -> Source | None:
    named = _named(metadata)
    text = metadata.get(KEY)
    if isinstance(text, str):
        return Source(text, f"the model's own ({KEY})", named.get("tool_use"))
    return _of_list(named, f"the model's own ({KEY}.{{}})")


def _beside(folder: Path) -> Source | None:
    for name in BESIDE:
        path = folder / name
        source = _from_file(path, f"the file {path}, since the model file has none") if path.is_file() else None
        if source is not None:
            return source
    return None


def _from_file(path: Path, why: str) -> Source | None:
    """The template in a file: the file itself, or the key chat_template of a JSON object."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return Source(text, why)
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The chat template {path} cannot be read: {error}.") from error
    found = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(found, list):
        pairs = [(each.get("name"), each.get("template")) for each in found if isinstance(each, dict)]
        return _of_list({n: t for n, t in pairs if isinstance(n, str) and isinstance(t, str)}, f"{{}} in {why}")
    return Source(found, why) if isinstance(found, str) else None


def _of_list(named: Mapping[str, str], why: str) -> Source | None:
    """`default` of a named list; without it the first that is not for tools, or else that one."""
    if not named:
        return None
    name = min(named, key=lambda name: (name != "default", name == "tool_use"))
    return Source(named[name], why.format(name), named.get("tool_use"))


def _named(metadata: Mapping[str, Any]) -> dict[str, str]:
    """A model file's templates by name, such as default and tool_use, in the order of its list."""
    names = metadata.get("tokenizer.chat_templates")
    listed = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    others = [key.removeprefix(f"{KEY}.") for key in metadata if key.startswith(f"{KEY}.")]
    found = {name: metadata.get(f"{KEY}.{name}") for name in [*listed, *others]}
    return {name: text for name, text in found.items() if isinstance(text, str)}
