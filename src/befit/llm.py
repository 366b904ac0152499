"""`LLM`: many prompts in, all outputs back, in this process and without a server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from befit.config import EngineOptions
from befit.engine.core import Engine
from befit.engine.load import LoadedModel, load_model
from befit.engine.outputs import CompletionOutput, Delta, RequestOutput
from befit.engine.request import Request, build_request
from befit.errors import ConfigError, InvalidRequest
from befit.sampling import SamplingParams, recommended

if TYPE_CHECKING:
    from befit.api.chat import ChatTemplate

Prompt: TypeAlias = str | Sequence[int]
Message: TypeAlias = Mapping[str, Any]


class LLM:
    """One model for offline generation.

    `model` is a name, or the path of a GGUF file or of a model's folder; the options are the fields of `EngineOptions`
    (ctx, max_seqs, threads, kv_tokens, backend, …). Errors are befit's own: see `befit.errors`. Not thread-safe.

        llm = LLM("smollm2:135m")
        [output] = llm.generate("def fibonacci(n):", SamplingParams(temperature=0, max_tokens=64))
        print(output.outputs[0].text)
    """

    def __init__(self, model: str | LoadedModel = "smollm2:135m", *, progress: bool = True, **options: Any) -> None:
        if isinstance(model, LoadedModel):
            if options:
                raise ConfigError(f"A loaded model has its settings already; leave out {', '.join(sorted(options))}.")
            self.model = model
        else:
            self.model = load_model(model, _options(options), progress=progress)
        self.engine = Engine(self.model)
        self._template: ChatTemplate | None = None

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Continue each prompt, a text or a list of token ids; outputs come in the order of the prompts.

        `sampling_params` is one for all or one each; None is what the
        model's makers recommend, else `SamplingParams()`. A request that fails has
        finish_reason "error"; wrong ones raise before anything is computed. Ctrl-C aborts all and raises
        KeyboardInterrupt after the current step.
        """
        many = _many(prompts)
        texts = [prompt if isinstance(prompt, str) else None for prompt in many]
        ids = [self.model.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in many]
        return self._run(texts, ids, _each(self._params(sampling_params), len(many)), use_tqdm, priority)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, a list of {"role", "content"} messages, or several, by the model's chat template."""
        single = bool(messages) and isinstance(messages[0], Mapping)
        conversations = cast(Sequence[Sequence[Message]], [messages] if single else messages)
        wishes: dict[str, Any] = {
            **(chat_template_kwargs or {}),
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        template = self._chat_template()
        texts = [template.render(conversation, **wishes) for conversation in conversations]
        ids = [template.encode(conversation, **wishes) for conversation in conversations]
        return self._run(list(texts), ids, _each(self._params(sampling_params), len(texts)), use_tqdm, None)

    def close(self) -> None:
        """Free the model."""
        self.model.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _params(
        self, given: SamplingParams | Sequence[SamplingParams] | None
    ) -> SamplingParams | Sequence[SamplingParams]:
        return SamplingParams(**recommended(self.model.metadata)) if given is None else given

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            from befit.api.chat import ChatTemplate

            self._template = ChatTemplate.from_metadata(
                self.model.metadata, self.model.tokenizer, beside=self.model.path
            )
        return self._template

    def _run(
        self,
        texts: list[str | None],
        ids: list[list[int]],
        params: list[SamplingParams],
        use_tqdm: bool,
        priority: Sequence[int] | None,
    ) -> list[RequestOutput]:
        if priority is not None and len(priority) != len(ids):
            raise InvalidRequest(
                f"There are {len(priority)} priorities for {len(ids)} prompts; give one each.", "priority"
            )
        requests = [
            build_request(self.model, prompt, each, priority=priority[i] if priority is not None else 0)
            for i, (prompt, each) in enumerate(zip(ids, params, strict=True))
        ]
        outputs = {request.id: _output(request, text) for request, text in zip(requests, texts, strict=True)}
        with _deferred_interrupt() as interrupted, _progress(len(requests), use_tqdm) as bar:
            try:
                for request in requests:
                    self.engine.add(request)
                while self.engine.has_work:
                    if interrupted.is_set():
                        raise KeyboardInterrupt
                    for request, delta in self.engine.step():
                        _apply(outputs[request.id], delta)
                        if delta.finish_reason is not None and request.finished:
                            outputs[request.id].finished = True
                            bar.request_done()
                        bar.tokens += len(delta.token_ids)
            finally:
                self.engine.abort_all()
        return [outputs[request.id] for request in requests]


class _Bar:
    """A progress bar over requests with the rate of output tokens; shows nothing when disabled."""

    def __init__(self, total: int, enabled: bool) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self.tokens = 0
        self._tqdm = tqdm(total=total, desc="Generating", unit="req", disable=not enabled, dynamic_ncols=True)

    def request_done(self) -> None:
        """One request more is complete."""
        seconds = self._tqdm.format_dict["elapsed"]
        if not self._tqdm.disable and seconds > 0:
            self._tqdm.set_postfix_str(f"{self.tokens / seconds:.1f} tokens/s", refresh=False)
        self._tqdm.update(1)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._tqdm.close()


@contextmanager
def _progress(total: int, enabled: bool) -> Iterator[_Bar]:
    bar = _Bar(total, enabled)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Let the first Ctrl-C set an event instead of raising in the middle of a step; a second one raises at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _options(options: Mapping[str, Any]) -> EngineOptions:
    try:
        return EngineOptions(**options)
    except TypeError:
        known = list(EngineOptions.__dataclass_fields__)
        wrong = sorted(set(options) - set(known))
        raise ConfigError(f"Unknown option {', '.join(wrong)}; the options are {', '.join(known)}.") from None


def _many(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _each(params: SamplingParams | Sequence[SamplingParams], n: int) -> list[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * n
    if len(params) != n:
        raise InvalidRequest(
            f"There are {len(params)} sampling parameters for {n} prompts; give one for all or one each.",
            "sampling_params",
        )
    return list(params)


def _output(request: Request, prompt: str | None) -> RequestOutput:
    params = request.params
    outputs = [CompletionOutput(i, logprobs=None if params.logprobs is None else []) for i in range(params.n)]
    return RequestOutput(request.id, prompt, request.prompt_ids, outputs)


def _apply(output: RequestOutput, delta: Delta) -> None:
    completion = output.outputs[delta.index]
    completion.text += delta.text
    completion.token_ids += delta.token_ids
    if completion.logprobs is not None and delta.logprobs is not None:
        completion.logprobs += delta.logprobs
    if delta.prompt_logprobs is not None:
        output.prompt_logprobs = delta.prompt_logprobs
    output.cached_tokens = max(output.cached_tokens, delta.cached_tokens)
    if delta.finish_reason is not None:
        completion.finish_reason = delta.finish_reason
        completion.stop_reason = delta.stop_reason
        completion.error = delta.error
