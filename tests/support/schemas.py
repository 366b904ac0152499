"""Random JSON schemas that can be met, of what befit takes: objects, arrays, strings, numbers, choices, references."""

from __future__ import annotations

from random import Random
from typing import Any

NAMES = ("id", "name", "path", "line", "tags", "größe", "is_ok", "x-y", "a b", "items", "kind", "0", 'über\n"zwei"')
WORDS = ("add", "remove", "replace", "", "naïve", "日本", 'say "hi"', "back\\slash", "😀", "line\nbreak")
PATTERNS = (r"^[a-z]{2,8}$", r"^\d{3}-\d{4}$", r"^#[0-9a-fA-F]{6}$", r"^(foo|bar)+$", r"[aeiou]", r"^v\d+\.\d+$")
FORMATS = ("date", "time", "date-time", "email", "ipv4", "uuid")


def random_schema(rng: Random) -> dict[str, Any]:
    """A schema of an object, as clients ask for; half of them refer to definitions, some to themselves."""
    definitions = {f"d{at}": _schema(rng, 1, ()) for at in range(rng.randint(0, 2))}
    references = tuple(f"#/$defs/{name}" for name in definitions)
    schema = _object(rng, 3, references)
    if definitions:
        schema["$defs"] = definitions
    if rng.random() < 0.2:  # a tree: the reference to itself is optional, so that it can end
        schema.setdefault("properties", {})["children"] = {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}
    return schema


def bounded(schema: Any) -> Any:
    """The schema without what has no end: additional properties and trees."""
    if isinstance(schema, list):
        return [bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: value if key in ("const", "enum") else bounded(value) for key, value in schema.items()}
    if isinstance(changed.get("properties"), dict):
        changed["properties"] = {name: one for name, one in changed["properties"].items() if name != "children"}
        changed["additionalProperties"] = False
    return changed


def _schema(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    kinds = [_string, _number, _choice, _flag]
    if depth > 0:
        kinds += [_object, _array, _any_of, _all_of]
    if references and rng.random() < 0.2:
        return {"$ref": rng.choice(references)}
    schema = rng.choice(kinds)(rng, depth, references)
    if rng.random() < 0.3:
        schema |= {"title": "T", "description": "what it is for"}
    return schema


def _object(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(0, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(rng, depth - 1, references) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
    }
    schema["additionalProperties"] = rng.choice([False, False, {"type": "integer", "minimum": 0, "maximum": 9}])
    return schema


def _array(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    least = rng.randint(0, 2)
    schema: dict[str, Any] = {"type": "array", "minItems": least, "maxItems": least + rng.randint(0, 2)}
    if rng.random() < 0.2:
        schema |= {"prefixItems": [_schema(rng, depth - 1, references)], "items": {"type": "boolean"}}
    else:
        schema["items"] = _schema(rng, depth - 1, references)
    return schema


def _any_of(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    return {"anyOf": [_schema(rng, depth - 1, references) for _ in range(rng.randint(1, 3))]}


def _all_of(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    low = rng.randint(-50, 50)
    return {"allOf": [{"type": "integer"}, {"minimum": low}, {"maximum": low + rng.randint(0, 100)}]}


def _string(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    least = rng.randint(0, 5)
    return rng.choice(
        [
            {"type": "string", "maxLength": 20},
            {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 20)},
            {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 20},
            {"type": "string", "format": rng.choice(FORMATS)},
        ]
    ).copy()


def _number(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    low = rng.randint(-1000, 1000)
    high = low + rng.randint(1, 2000)
    return rng.choice(
        [
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "number", "minimum": low, "maximum": high},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high + 1},
            {"type": "integer", "multipleOf": rng.randint(2, 12), "minimum": 0, "maximum": 500},
            {"type": "number", "exclusiveMinimum": low / 8, "maximum": high / 8},
        ]
    ).copy()


def _choice(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    values: list[Any] = [*rng.sample(WORDS, 3), rng.randint(-9, 9), None, True, [1, "a"], {"k": 1.5}]
    if rng.random() < 0.3:
        return {"const": rng.choice(values)}
    return {"enum": rng.sample(values, rng.randint(1, 5))}


def _flag(rng: Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}
