"""API keys, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from befit.errors import ConfigError

_SHORTEST = 8


@dataclass(frozen=True, slots=True)
class Keys:
    """SHA-256 digests of the keys. Without any, everybody is let in."""

    digests: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, keys: Iterable[str]) -> Keys:
        """Raises ConfigError for a key that is too short to be one."""
        found: dict[bytes, None] = {}
        for key in keys:
            if len(key) < _SHORTEST:
                raise ConfigError(
                    f"An API key has {len(key)} characters; use {_SHORTEST} or more, better 32 random ones."
                )
            found[_digest(key)] = None
        return cls(tuple(found))

    def find(self, key: str) -> str | None:
        """A name for the key in logs and limits, or None if it is none of them. The time does not tell which."""
        digest = _digest(key)
        found = False
        for known in self.digests:
            found |= hmac.compare_digest(known, digest)
        return digest.hex()[:12] if found else None


def read_keys(path: Path) -> list[str]:
    """The keys in a file, one a line; empty lines and those that begin with # are none. Raises ConfigError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The keys in {path} cannot be read: {error}.") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError(f"{path} has no keys; write one a line.")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
