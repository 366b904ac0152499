"""What buffers will take is known before a weight is read, to the byte."""

from __future__ import annotations

import numpy as np
import pytest

from befit.backends.native import lower
from befit.backends.native.backend import NativeBackend
from befit.backends.native.size import buffers
from support.tiny import FAMILY_NAMES, tiny_model


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("storage", ["f32", "q8_0"])
@pytest.mark.parametrize(("tokens", "rows", "threads"), [(1, 1, 1), (37, 9, 2), (64, 70, 3)])
def test_buffers_are_as_large_as_predicted(family, storage, tokens, rows, threads):
    model = tiny_model(family, storage=storage, tied=False)
    backend = NativeBackend(
        model.program,
        model.tensors,
        block_size=16,
        n_blocks=4,
        threads=threads,
        kv_dtype="f16",
        max_tokens=tokens,
        max_rows=rows,
    )
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    found = buffers(model.program, shapes, set(shapes) if storage == "f32" else set())
    assert backend.model.buffer_bytes == found.exact(tokens, rows, threads)
    backend.close()


def test_partial_results_of_attention_grow_with_context_and_threads():
    model = tiny_model("llama")
    found = buffers(model.program, {name: tensor.shape for name, tensor in model.tensors.items()})
    [(kv_heads, share, result)] = found.splits
    assert (kv_heads, share, result) == (2, 2, 4 * (32 + 16))
    assert found.total(64, 1, 1, 1024) == found.exact(64, 1, 1)
    # 64 tokens are 4 blocks of 16 queries, which 2 threads split into 4 chunks of 256 positions each
    assert found.total(64, 1, 2, 1024) - found.exact(64, 1, 2) == 2 * 4 * 4 * 16 * share * result
    assert found.total(64, 1, 2, 2048) > found.total(64, 1, 2, 1024)


def test_large_matrices_are_packed_in_pieces_whose_file_pages_are_let_go(monkeypatch):
    model = tiny_model("llama", storage="q8_0", vocab=1000, tied=False)

    def run(**wishes):
        return NativeBackend(
            model.program,
            model.tensors,
            block_size=16,
            n_blocks=4,
            threads=2,
            kv_dtype="f16",
            max_tokens=4,
            max_rows=4,
            **wishes,
        )

    whole = run()
    released, progress = [], []
    monkeypatch.setattr(lower, "_BATCH_BYTES", 5000)
    pieces = run(
        release=lambda tensor: released.append(tensor.name),
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert released.count("output.weight") > 5
    assert "token_embd.weight" not in released
    assert progress == sorted(progress)
    assert progress[-1][0] == progress[-1][1]
    batch = one_prompt([3, 1, 4])
    assert np.array_equal(whole.logits(batch), pieces.logits(batch))


def one_prompt(tokens):
    from befit.backends.base import StepBatch

    count = len(tokens)
    ints = lambda values: np.array(values, dtype=np.int32)  # noqa: E731
    return StepBatch(
        tokens=ints(tokens),
        positions=ints(range(count)),
        query_start=ints([0, count]),
        context_len=ints([count]),
        block_tables=ints([[0]]),
        rows=ints([count - 1]),
        targets=ints([-1]),
        samplers=[None],
        logprobs=ints([-1]),
    )
