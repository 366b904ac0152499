"""The files of a Hugging Face folder: which hold the weights, JSON objects, chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from befit.errors import CorruptFile, ModelError, ModelNotFound

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
MAX_JSON_BYTES = 1 << 28
TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def is_hf_folder(path: Path) -> bool:
    """Whether a folder has a config.json and safetensors."""
    return (path / CONFIG).is_file() and next(path.glob("*.safetensors"), None) is not None


def weight_files(path: Path) -> list[str]:
    """The names of the files that hold the weights: those of the index, `model.safetensors`, or the only one there is.

    Raises ModelNotFound, or CorruptFile for an index that names something else than files of the folder.
    """
    if (path / INDEX).is_file():
        listed = read_json(path / INDEX).get("weight_map")
        if not isinstance(listed, Mapping) or not listed:
            raise CorruptFile(f"{path / INDEX}: there is no weight_map; fetch it again.")
        names = sorted({str(name) for name in listed.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CorruptFile(f"{path / INDEX}: {name!r:.100} is no safetensors file of this folder.")
            if not (path / name).is_file():
                raise ModelNotFound(
                    f"{path / name}: the file is missing, one of {len(names)} that {INDEX} names; fetch all of them."
                )
        return names
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"]
    found = sorted(each.name for each in path.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise ModelNotFound(f"{path}: {len(found)} safetensors files and no {INDEX} that says which of them count.")
    if ggufs := sorted(each.name for each in path.glob("*.gguf")):
        hint = f": name one of its GGUF files, {', '.join(ggufs[:5])}"
    elif pickle := next((each.name for each in sorted(path.glob("*.bin"))), None):
        hint = f"; {pickle} is a pickle, which befit does not read: fetch the model as safetensors"
    else:
        hint = "; fetch all files of the model"
    raise ModelNotFound(f"{path}: there are no safetensors files{hint}.")


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object from a file. Raises ModelNotFound, ModelError or CorruptFile."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CorruptFile(f"{path}: {path.stat().st_size:,} bytes, and {MAX_JSON_BYTES:,} at most make sense.")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelNotFound(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: no JSON ({error}); fetch it again.") from None
    if not isinstance(found, Mapping):
        raise CorruptFile(f"{path}: no JSON object; fetch it again.")
    return found


def chat_templates(folder: Path) -> dict[str, str]:
    """The chat template, or several by name, as GGUF metadata; of the first file with any, in transformers' order."""
    for name in TEMPLATES:
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix == ".jinja":
            try:
                return {"tokenizer.chat_template": path.read_text(encoding="utf-8")}
            except (OSError, ValueError) as error:
                raise ModelError(f"{path}: cannot be read: {error}") from None
        found = read_json(path).get("chat_template")
        if isinstance(found, str):
            return {"tokenizer.chat_template": found}
        if isinstance(found, list):
            pairs = [(e.get("name"), e.get("template")) for e in found if isinstance(e, Mapping)]
            named = {n: t for n, t in pairs if isinstance(n, str) and isinstance(t, str)}
            default = named.pop("default", None)
            result = {f"tokenizer.chat_template.{n}": t for n, t in named.items()}
            return result if default is None else {"tokenizer.chat_template": default, **result}
    return {}
