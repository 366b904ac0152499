"""The most memory that a server ever takes, predicted and measured.

A server is started, and its KV cache, its batch and its embeddings are used in full: contexts of random tokens from all
of the vocabulary until every page has been written, then as many sequences at once as it runs, with a prompt to score
beside them. Measured is VmHWM of /proc/PID/status: the most pages that were ever in memory, mapped files included.
"""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from befit.bench.processes import ServerProcess, befit_command, free_port
from befit.config import EngineOptions
from befit.engine.load import settle
from befit.errors import BenchmarkFailed

_OUTPUT = 16
_SECONDS = 600


def measure(model: str, wishes: Mapping[str, Any] | None = None, *, fill: bool = True) -> dict[str, Any]:
    """Predicted and measured peak in bytes for a model with these fields of `EngineOptions`.

    fill: use all of the KV cache; otherwise a few requests of one page, which says what the rest takes.
    """
    options = EngineOptions(**(wishes or {}))
    config, budget, facts = settle(model, options)
    port = free_port()
    with ServerProcess("befit", befit_command(model, port, _flags(wishes or {})), port) as server:
        ready = server.wait_ready()
        idle = server.memory()[0]
        vocab = facts.program.vocab_size
        cached = config.n_blocks * config.block_size
        longest = min(config.ctx, cached) - 1
        rng = random.Random(0)
        prompt = max(1, longest - _OUTPUT)
        prompts = [prompt] * (-(-cached // prompt) if fill else 1)
        with ThreadPoolExecutor(config.max_seqs + 1) as pool:
            list(pool.map(lambda tokens: _ask(port, _prompt(rng, vocab, tokens)), prompts))
            some = max(1, min(32, cached // config.max_seqs - _OUTPUT))
            asked = [pool.submit(_ask, port, _prompt(rng, vocab, some)) for _ in range(config.max_seqs)]
            asked.append(
                pool.submit(_ask, port, _prompt(rng, vocab, min(256, longest - _OUTPUT)), echo=True, logprobs=1)
            )
            for each in asked:
                each.result()
        peak = server.memory()[1]
    resident = budget.used if fill else budget.used - budget.kv
    return {
        "wishes": dict(wishes or {}),
        "ctx": config.ctx,
        "max_seqs": config.max_seqs,
        "token_budget": config.token_budget,
        "kv_tokens": cached,
        "kv_dtype": config.kv_dtype,
        "threads": config.threads,
        "predicted": {
            "weights": budget.weights,
            "kv_cache": budget.kv if fill else 0,
            "activations": budget.activations,
            "process": budget.overhead,
            "together": resident,
        },
        "idle": idle,
        "measured": peak,
        "error": resident / peak - 1,
        "seconds_to_ready": ready,
    }


def _flags(wishes: Mapping[str, Any]) -> list[str]:
    return [word for name, value in wishes.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _prompt(rng: random.Random, vocab: int, tokens: int) -> list[int]:
    return rng.choices(range(vocab), k=max(1, tokens))


def _ask(port: int, prompt: Sequence[int], **fields: Any) -> None:
    body = {"prompt": prompt, "max_tokens": _OUTPUT, "temperature": 0, "ignore_eos": True, **fields}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", "/v1/models")
        body["model"] = json.loads(connection.getresponse().read())["data"][0]["id"]
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        said = reply.read()
    finally:
        connection.close()
    if reply.status != 200:
        raise BenchmarkFailed(f"the server answered {reply.status}: {said[:300].decode(errors='replace')}")
