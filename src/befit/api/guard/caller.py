"""Who makes the request that is being handled."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from befit.api.guard.limits import Account


@dataclass(frozen=True, slots=True)
class Caller:
    """name: of the key, "" without keys. account: where tokens are counted, if they are. timeout: seconds that an
    answer may take."""

    name: str = ""
    account: Account | None = None
    timeout: float | None = None

    def salt(self, asked: str) -> str:
        """The salt of prefixes: what one key's prompts leave in the cache is not found by another's, whose time to the
        first token would tell of it."""
        return f"{self.name}:{asked}" if self.name else asked


ANYBODY = Caller()
caller: ContextVar[Caller] = ContextVar("befit_caller", default=ANYBODY)
