"""Licences of what befit has installed with it: a table, and a failure for one that is not permissive.

Run with the Python of the environment that is looked at. LGPL is accepted for libraries that are used unchanged.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|0BSD|HPND|Unlicense|CC0|MPL|LGPL", re.I
)
COPYLEFT = re.compile(r"(?<!L)\bA?GPL|(?<!Lesser )General Public", re.I)


def needed(name: str, found: dict[str, Distribution]) -> None:
    """The distribution and, without extras, what it requires."""
    try:
        one = distribution(name)
    except PackageNotFoundError:
        return  # for another system
    if one.metadata["Name"].lower() in found:
        return
    found[one.metadata["Name"].lower()] = one
    for line in one.requires or ():
        if "extra ==" not in line:
            needed(re.split(r"[^\w.-]", line, maxsplit=1)[0], found)


def licence(one: Distribution) -> str:
    """What it says of itself, on one line."""
    said = [line.split("::")[-1].strip() for line in one.metadata.get_all("Classifier") or () if "License ::" in line]
    return one.metadata["License-Expression"] or ", ".join(said) or (one.metadata["License"] or "").split("\n")[0]


def main() -> int:
    """Print the table; 1 where a licence is unknown or not permissive."""
    found: dict[str, Distribution] = {}
    needed("befit", found)
    bad = []
    for name, one in sorted(found.items()):
        said = licence(one)
        fine = bool(PERMISSIVE.search(said)) and not COPYLEFT.search(said)
        bad += [] if fine else [name]
        print(f"{name:24} {one.version:12} {said or 'says none'}{'' if fine else '   <- look at this'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
