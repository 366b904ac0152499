"""Bringing a model into memory as a service, within what the server may take of the memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from befit import heap, store
from befit.api.models.member import Loaded, Member
from befit.config import EngineOptions
from befit.errors import BefitError, DoesNotFit, ModelNotFound

if TYPE_CHECKING:
    from befit.api.models.library import Library
    from befit.api.service import Service
    from befit.engine.load import LoadedModel
    from befit.store import ModelRow

# What builds a service is imported while weights are loaded: a start should be quick.


@dataclass(frozen=True, slots=True)
class ModelLoader:
    """Loads the models of one server.

    options    how each is loaded; its draft model is for the first alone, as are
               `chat_template` and `tool_parser`
    first      what the first is loaded from
    several    there may be more than one, so that none takes all of the memory for its KV cache
    stored     requests may name models of the store beside those that are listed
    pull       and such as have to be fetched
    budget     bytes that several models together may take; worked out at the start
    """

    options: EngineOptions
    first: str
    chat_template: str | None = None
    tool_parser: str | None = None
    several: bool = False
    stored: bool = False
    pull: bool = False
    budget: int = field(init=False)

    def __post_init__(self) -> None:
        budget = 0
        if self.several:
            from befit.engine.resolve import machine_of

            budget = machine_of(self.options).available
        object.__setattr__(self, "budget", budget)

    @property
    def library(self) -> Library | None:
        """See `Loader`."""
        if not self.stored:
            return None
        from befit.api.models.library import Library

        return Library(self.options)

    # -- what there is ------------------------------------------------------------------------------------------------

    def others(self, refs: Sequence[str]) -> list[Member]:
        """The models of the command line beside the first, fetched if they are not here. Raises what fetching does."""
        from befit.engine.load import fetched

        found = [(ref, *fetched(ref, self.options, progress=True)) for ref in refs]
        return [Member((name,), ref, path, default=None) for ref, path, name in found]

    def find(self, name: str, *, fetch: bool, check: Callable[[], None]) -> Member | None:
        """See `Loader`. Only names are looked up, never paths: a request does not open files of its choice."""
        if self.library is None:
            return None
        fetch = fetch and self.pull
        full, path = self.library.find(name, fetchable=fetch)
        if path is None and fetch:
            path = self.library.pull(name, lambda digest, total, completed: check())
        if path is None:
            raise ModelNotFound(
                f"{full} is not stored on the server's machine. Fetch it there with `befit pull {full}`, or start the "
                "server with --pull."
            )
        return Member((full,), full, path, listed=False)

    def rows(self) -> list[ModelRow]:
        """See `Loader`."""
        return store.list_models() if self.stored else []

    # -- into memory --------------------------------------------------------------------------------------------------

    def load_first(
        self, served_names: Sequence[str], report: Callable[[str], None], meanwhile: Callable[[], None]
    ) -> Member:
        """The first model of the command line, in memory. served_names: what clients call it, if not by its own name;
        the others as in `load_model`, which says what this raises."""
        member = Member(tuple(served_names), self.first, Path(), default=None)
        member.loaded = self.load(member, 0, exact=False, progress=True, report=report, meanwhile=meanwhile)
        return member

    def load(
        self,
        member: Member,
        taken: int,
        *,
        exact: bool,
        progress: bool = False,
        report: Callable[[str], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Loaded:
        """See `Loader`; the others as in `load_model`."""
        from befit.engine.load import load_model

        options = self._options(member, taken, exact=exact)
        ref = member.ref if member.listed else str(member.path)
        loaded = load_model(
            ref,
            options,
            progress=progress,
            report=report,
            meanwhile=meanwhile,
            alone=not self.several,
            shorten=not exact,
        )
        member.path = loaded.path
        member.names = member.names or (loaded.name,)
        try:
            service = self._service(member, loaded)
        except BaseException:
            loaded.close()
            raise

        def close() -> None:
            loaded.close()
            _give_back()

        return Loaded(service, loaded.memory, close)

    def _is_first(self, member: Member) -> bool:
        return member.listed and member.ref == self.first

    def _options(self, member: Member, taken: int, *, exact: bool) -> EngineOptions:
        """The options for a model beside those that take so many bytes. Raises DoesNotFit where nothing is left."""
        options = self.options
        if not self._is_first(member):
            speculation = "auto" if options.speculation == "draft" else options.speculation
            options = replace(options, draft=None, speculation=speculation)
        if exact and options.quant == "auto":
            options = replace(options, quant="none")
        asked = _settings(member).get("parameters", {}).get("num_ctx")
        if asked is not None and options.ctx is None:
            options = replace(options, ctx=int(asked))
        if not self.several:
            return options
        left = self.budget - taken
        if options.memory is None:  # other programs may have taken some since the start
            from befit.engine.resolve import machine_of

            left = min(left, machine_of(options).available)
        if left <= 0:
            raise DoesNotFit(
                f"{member.name} does not fit: the models in memory take {taken / 1e9:.2f} GB of the "
                f"{self.budget / 1e9:.2f} GB that there are."
            )
        return replace(options, memory=left)

    def _service(self, member: Member, loaded: LoadedModel) -> Service:
        import befit
        from befit.api.chat import ChatTemplate
        from befit.api.metrics import Metrics
        from befit.api.service import Service
        from befit.engine.async_engine import AsyncEngine

        first = self._is_first(member)
        settings = store.settings(member.path)
        template = ChatTemplate.from_metadata(
            loaded.metadata,
            loaded.tokenizer,
            file=self.chat_template if first else None,
            beside=loaded.path,
            settings=settings,
        )
        engine = AsyncEngine(loaded)
        metrics = Metrics(engine.stats, member.name)
        engine.observer = metrics
        parser = self.tool_parser if first else None
        return Service(
            engine, member.names, template, metrics, befit.__version__, tool_parser=parser, settings=settings
        )


def _give_back() -> None:
    """Return to the system what a model has left: a tokeniser is large, in cycles, and of many small pieces, which the
    C library of most systems keeps for later."""
    gc.collect()
    heap.trim()


def _settings(member: Member) -> Mapping[str, Any]:
    """What it was created with. The path of the first is not known before it has been loaded once."""
    try:
        path = member.path if member.path.name else store.find(member.ref, fetchable=True)
    except BefitError:  # loading says what is wrong with it
        return {}
    return store.settings(path) if path is not None else {}
