"""What an engine does before a step: guess, as far as that pays, and count afterwards how well it guessed."""

from __future__ import annotations

import logging
from collections import abc
from math import log

from befit.engine.request import Sequence
from befit.engine.speculation.allot import allot
from befit.engine.speculation.chance import Chance
from befit.engine.speculation.draft_model import DraftModel, Follower
from befit.engine.speculation.lookup import PromptLookup
from befit.engine.speculation.step_time import StepTime
from befit.sched.scheduler import Scheduler

logger = logging.getLogger("befit.engine")

MOST_LOOKED_UP = 31  # with the token before them two blocks of 16
MOST_MODELLED = 8
MOST_SEQUENCES = 32
"""In larger steps computing outweighs reading weights, and drafts cannot gain much."""

_MODEL_PRIOR = 0.6
_TRY_AGAIN = 64  # steps without the draft model after which it gets another chance


class Guesses:
    """What is known about one sequence's drafts. Lives as long as the sequence, in `Sequence.guesses`."""

    __slots__ = ("chance", "follower", "idle", "lookup", "modelled")

    def __init__(self) -> None:
        self.lookup: PromptLookup | None = None
        self.follower: Follower | None = None
        self.chance = Chance(_MODEL_PRIOR)  # of the draft model
        self.idle = 0  # steps without the draft model
        self.modelled = False  # whether the present drafts are the draft model's


class Speculator:
    """Gives the sequences of a step their drafts. Whatever goes wrong in it costs speed and no request."""

    def __init__(self, scheduler: Scheduler[Sequence], *, lookup: bool, model: DraftModel | None) -> None:
        self.drafts = self.drafted_tokens = self.accepted_tokens = 0
        self._scheduler = scheduler
        self.lookup = lookup
        self.model = model
        self.time = StepTime()
        self._only_decodes = False

    def prepare(self, step: abc.Sequence[tuple[Sequence, int]]) -> None:
        """Set `drafts` of the step's sequences, granted by the scheduler."""
        decoding = [sequence for sequence, _ in step if not sequence.catching_up and not _closing(sequence)]
        self._only_decodes = not any(sequence.catching_up for sequence, _ in step)
        if not decoding or len(step) > MOST_SEQUENCES:
            return
        tokens = sum(n for _, n in step)
        if self.lookup:
            try:
                tokens += self._look_up(decoding, len(step), tokens)
            except Exception:
                self.lookup = False
                self._failed("Prompt lookup", decoding)
        if self.model is not None:
            try:
                self._draft(self.model, [s for s in decoding if not s.drafts], len(step), tokens)
            except Exception:
                self.model = None
                self._failed("The draft model", decoding)

    def observe(self, tokens: int, seconds: float) -> None:
        """The step took so long. Steps that compute prompts say little about the cost of drafts."""
        if self._only_decodes:
            self.time.observe(tokens, seconds)

    def verified(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """So many of a sequence's drafts were right."""
        self.drafts += 1
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted
        guesses = sequence.guesses
        if guesses is not None and guesses.follower is not None and guesses.modelled:
            guesses.modelled = False
            guesses.follower.verified(accepted)
            guesses.chance.count(accepted, min(accepted + 1, drafted))

    def preempted(self, sequence: Sequence) -> None:
        """The sequence lost its pages, and with them its draft KV."""
        if sequence.guesses is not None:
            sequence.guesses.follower = None

    def _look_up(self, decoding: list[Sequence], sequences: int, tokens: int) -> int:
        """Drafts from the text so far; how many there are."""
        proposals: list[tuple[Sequence, list[int]]] = []
        chances: list[list[float]] = []
        for sequence in decoding:
            guesses = _guesses(sequence)
            if guesses.lookup is None:
                guesses.lookup = PromptLookup(sequence.tokens, sequence.limit)
            guesses.lookup.catch_up()
            drafts, each = guesses.lookup.propose(min(MOST_LOOKED_UP, sequence.limit - len(sequence.tokens) - 1))
            if drafts and (self.model is None or each[0] >= guesses.chance.value):
                proposals.append((sequence, drafts))
                chances.append(each)
        if not proposals:
            return 0
        counts = allot(chances, sequences, tokens, self._scheduler.draft_budget, self.time.predict)
        for (sequence, drafts), count in zip(proposals, counts, strict=True):
            sequence.drafts = drafts[: self._scheduler.grant(sequence, count)]
        return sum(len(sequence.drafts) for sequence, _ in proposals)

    def _draft(self, model: DraftModel, decoding: list[Sequence], sequences: int, tokens: int) -> None:
        """Drafts from the draft model, as many for each sequence."""
        for sequence in decoding:
            guesses = _guesses(sequence)
            guesses.idle += 1
            if guesses.idle > _TRY_AGAIN:
                guesses.chance = Chance(_MODEL_PRIOR)
        count = self._model_drafts(model, [_guesses(s).chance.value for s in decoding], sequences, tokens)
        if not count:
            return
        wanted: list[tuple[Follower, int]] = []
        for sequence in decoding:
            guesses = _guesses(sequence)
            if guesses.follower is None:
                guesses.follower = Follower(sequence)
            granted = self._scheduler.grant(sequence, count)
            if granted:
                wanted.append((guesses.follower, granted))
        for follower, drafts in model.draft(wanted):
            follower.sequence.drafts = drafts
            guesses = _guesses(follower.sequence)
            guesses.idle, guesses.modelled = 0, bool(drafts)

    def _model_drafts(self, model: DraftModel, chances: list[float], sequences: int, tokens: int) -> int:
        """How many drafts a sequence pay the most: as in `allot`, where each also costs a step of the draft model."""
        if not chances:
            return 0
        plain = self.time.predict(tokens)
        drafting = model.time.predict(len(chances)) if model.time.known and self.time.known else plain / 4
        best, most_gain = 0, 0.0
        for count in range(1, MOST_MODELLED + 1):
            seconds = self.time.predict(tokens + count * len(chances)) + count * drafting
            gain = sum(log((1 - p ** (count + 1)) / (1 - p)) for p in chances) - sequences * log(seconds / plain)
            if gain > most_gain:
                best, most_gain = count, gain
        return best

    def _failed(self, what: str, decoding: list[Sequence]) -> None:
        logger.warning("%s failed and is off from now on; requests go on without it.", what, exc_info=True)
        for sequence in decoding:
            sequence.drafts = []


def _closing(sequence: Sequence) -> bool:
    """Whether there is nothing left to guess: all that follows is decided."""
    return sequence.grammar is not None and sequence.grammar.closing


def _guesses(sequence: Sequence) -> Guesses:
    if sequence.guesses is None:
        sequence.guesses = Guesses()
    return sequence.guesses
