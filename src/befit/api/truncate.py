"""Shortening a prompt, for those who ask for it; nobody else's prompt is ever cut."""

from __future__ import annotations

from befit.errors import InvalidRequest

AS_MANY_AS_FIT = -1


def truncate(ids: list[int], asked: int | None, side: str | None, *, ctx: int, output: int) -> list[int]:
    """At most `asked` tokens of a prompt: its end, or its beginning when `side` is "right" (the side that is cut).

    -1 keeps as many as leave room for `output` tokens in a context of `ctx`. None cuts nothing.
    """
    if side not in (None, "left", "right"):
        raise InvalidRequest(f"truncation_side is {side!r}; it must be left or right.", "truncation_side")
    if asked is None:
        return ids
    keep = kept(asked, ctx=ctx, output=output)
    if len(ids) <= keep:
        return ids
    return ids[:keep] if side == "right" else ids[len(ids) - keep :]


def kept(asked: int, *, ctx: int, output: int) -> int:
    """How many tokens `truncate_prompt_tokens` leaves of a prompt, at most."""
    if asked != AS_MANY_AS_FIT and not 1 <= asked <= ctx:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {asked}; it must be -1 (as many as fit), or 1 to the context's {ctx}.",
            "truncate_prompt_tokens",
        )
    return max(ctx - output, 0) if asked == AS_MANY_AS_FIT else asked
