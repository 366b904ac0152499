"""The server whose model is judged: one that runs already, or a `befit serve` of its own for the length of a `with`.

There is one way to ask, so that befit and other servers get the same requests.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from befit.bench.calibrate import find_model
from befit.bench.processes import ServerProcess, befit_command, ending_on_sigterm, free_port
from befit.bench.target import Target
from befit.errors import BenchmarkFailed

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, why it ended, and its tokens as the server counts them (0 where it does not)."""

    text: str
    finish_reason: str = ""
    tokens: int = 0


class Endpoint:
    """Asks one server. Raises BenchmarkFailed where it does not answer as it should."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.target.model = target.model or find_model(target)

    def complete(self, prompt: str, *, max_tokens: int, stop: Sequence[str] = (), **wishes: Any) -> Answer:
        """Continue a prompt, over /completions. wishes: temperature, seed, top_p."""
        body = {"model": self.target.model, "prompt": prompt, "max_tokens": max_tokens, **wishes}
        if stop:
            body["stop"] = [*stop]
        return self._choice(self._post(f"{self.target.path}/completions", body), lambda choice: choice["text"])

    def chat(self, text: str, *, max_tokens: int, **wishes: Any) -> Answer:
        """Answer a user's message, over /chat/completions."""
        messages = [{"role": "user", "content": text}]
        body = {"model": self.target.model, "messages": messages, "max_tokens": max_tokens, **wishes}
        answer = self._post(f"{self.target.path}/chat/completions", body)
        return self._choice(answer, lambda choice: choice["message"]["content"] or "")

    def infill(self, prefix: str, suffix: str, *, max_tokens: int, stop: Sequence[str] = ()) -> Answer:
        """The text between two others, greedily, over llama.cpp's /infill, which befit has too."""
        body = {
            "input_prefix": prefix,
            "input_suffix": suffix,
            "n_predict": max_tokens,
            "temperature": 0,
            "stop": [*stop],
            "cache_prompt": False,
        }
        answer = self._post(f"{self.target.path.removesuffix('/v1')}/infill", body)
        try:
            return Answer(str(answer["content"]), str(answer.get("stop_type", "")), answer.get("tokens_predicted", 0))
        except LookupError:
            raise BenchmarkFailed(f"{self.target.url} answered /infill without content: {str(answer)[:300]}") from None

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            status, data = self.target.call("POST", path, body)
            answer = json.loads(data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchmarkFailed(f"{self.target.url}: no answer to {path}: {error!r}") from None
        if status != 200 or not isinstance(answer, dict):
            raise BenchmarkFailed(f"{self.target.url} answered {path} with {status}: {str(answer)[:500]}")
        return answer

    def _choice(self, answer: dict[str, Any], text: Callable[[Any], str]) -> Answer:
        try:
            [choice] = answer["choices"]
            tokens = (answer.get("usage") or {}).get("completion_tokens", 0)
            return Answer(text(choice), choice.get("finish_reason") or "", tokens)
        except (LookupError, TypeError, ValueError):
            raise BenchmarkFailed(f"{self.target.url} answered with no choice: {str(answer)[:300]}") from None


@contextmanager
def open_endpoint(
    model: Path | None, url: str | None, *, name: str = "", api_key: str = "", options: Sequence[str] = ()
) -> Iterator[Endpoint]:
    """The server at `url`, or one that is started for `model` with more options of befit serve."""
    with ending_on_sigterm():
        if url is not None:
            yield Endpoint(Target(url, model=name, api_key=api_key))
            return
        port = free_port()
        with ServerProcess("befit", befit_command(str(model), port, options), port) as server:
            server.wait_ready()
            yield Endpoint(Target(f"http://127.0.0.1:{port}/v1"))


def ask_all(
    jobs: Iterable[Job], ask: Callable[[Job], Result], concurrency: int, on_done: Callable[[Job, Result], None]
) -> None:
    """ask(job) for every job, `concurrency` of them at once; on_done is called in this thread, in any order.

    The first error is raised at once; what runs is not waited for, and what has not begun is left.
    """
    source = iter(jobs)
    pool = ThreadPoolExecutor(concurrency)
    try:
        running = {pool.submit(ask, job): job for job in islice(source, concurrency)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                on_done(job, future.result())
                running.update((pool.submit(ask, following), following) for following in islice(source, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
