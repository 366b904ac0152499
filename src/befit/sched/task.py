"""What the scheduler knows of one sequence: `known` tokens, of which the first `computed` have their KV in pages."""

from __future__ import annotations


class Task:
    """One sequence in the scheduler's eyes. The engine appends to `tokens`; everything else is the scheduler's.

    tokens      known token ids: the prompt, then the output so far; at most `limit` of them
    n_prompt    how many of them are the prompt
    priority    lower goes first; equal ones go in the order of arrival
    root        start of the hash chain of its pages (see `befit.cache.prefix`)
    reuse       may start from pages that others computed
    scoring     every prompt token it computes may need logits, so its chunks are kept small

    computed    tokens whose KV is in `pages`
    pages       its KV pages in order; it holds one reference on each
    names       hash names of its full pages, as far as they were needed
    slot        a small number of its own while it runs (0..max_seqs-1), else -1
    catching_up whether it runs and still has prompt (or preempted output) to compute
    cached      prompt tokens that needed no computing when it first ran; None before that
    drafts      guesses at the tokens behind the known ones that the step under way computes too, as many as granted
    """

    __slots__ = (
        "arrival",
        "cached",
        "catching_up",
        "computed",
        "drafts",
        "limit",
        "n_prompt",
        "names",
        "pages",
        "priority",
        "reuse",
        "root",
        "scoring",
        "slot",
        "tokens",
    )

    def __init__(
        self,
        prompt: list[int],
        limit: int,
        *,
        priority: int = 0,
        root: bytes = b"",
        reuse: bool = True,
        scoring: bool = False,
    ) -> None:
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.limit = limit
        self.priority = priority
        self.root = root
        self.reuse = reuse
        self.scoring = scoring
        self.arrival = -1
        self.computed = 0
        self.pages: list[int] = []
        self.names: list[bytes] = []
        self.slot = -1
        self.catching_up = True
        self.cached: int | None = None
        self.drafts: list[int] = []
