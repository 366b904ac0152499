"""Recorded decode steps: which shapes, when, and that padding and static buffers change no result. All with a fake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from befit.backends.base import SamplerSpec  # noqa: E402
from befit.backends.cuda.graphs import BUCKETS, RECORD_AT, Graphs, padded  # noqa: E402
from befit.backends.cuda.staging import Shape  # noqa: E402
from support.steps import Seq, generate, logits_of, make_batch  # noqa: E402
from support.tiny import tiny_model  # noqa: E402


@dataclass
class Again:
    """A recording that runs the recorded step anew, on the static buffers that it saw then."""

    run: object
    replays: int = 0

    def replay(self):
        self.replays += 1
        return self.run()


class FakeRecorder:
    def __init__(self, fail=None):
        self.made = []
        self.fail = fail

    def record(self, run):
        if self.fail:
            raise self.fail
        run()  # warm-up and capture run the step without anybody looking
        run()
        self.made.append(Again(run))
        return self.made[-1]


def decode(seqs, pages=3):
    return Shape(seqs, seqs, seqs, 0, pages, True)


@given(seqs=st.integers(1, 300), pages=st.integers(1, 70), most=st.integers(1, 300), all_pages=st.booleans())
def test_a_bucket_holds_the_step_and_never_more_than_there_is_room_for(seqs, pages, most, all_pages):
    bucket = padded(decode(seqs, pages), most_seqs=most, most_pages=70, all_pages=all_pages)
    if bucket is None:
        assert seqs > min(most, BUCKETS[-1])
        return
    assert seqs <= bucket.seqs <= most
    assert bucket.seqs in (*BUCKETS, most)
    assert bucket.tokens == bucket.rows == bucket.seqs
    assert pages <= bucket.pages <= 70
    assert bucket.pages == 70 or not all_pages


def test_prefills_and_hidden_states_are_not_recorded():
    for shape in (Shape(5, 2, 2, 0, 1, False), Shape(2, 2, 1, 1, 1, True)):
        assert padded(shape, most_seqs=64, most_pages=8, all_pages=True) is None


def test_a_shape_is_recorded_when_it_comes_again():
    recorder = FakeRecorder()
    graphs = Graphs(recorder)
    calls = []
    for _ in range(RECORD_AT - 1):
        graphs.run(decode(2), lambda: calls.append("plain"))
    assert graphs.recorded == []
    graphs.run(decode(2), lambda: calls.append("recorded"))
    assert graphs.recorded == [decode(2)]
    graphs.run(decode(4), lambda: calls.append("other"))
    assert graphs.recorded == [decode(2)]
    assert recorder.made[0].replays == 1


def test_invalid_recordings_are_made_anew():
    recorder = FakeRecorder()
    graphs = Graphs(recorder)
    for _ in range(RECORD_AT):
        graphs.run(decode(1), lambda: None)
    graphs.invalidate()
    assert graphs.recorded == []
    for _ in range(RECORD_AT):
        graphs.run(decode(1), lambda: None)
    assert len(recorder.made) == 2


def test_what_cannot_be_recorded_runs_as_it_is_from_then_on():
    graphs = Graphs(FakeRecorder(fail=RuntimeError("an op that cannot be captured")))
    for _ in range(4):
        assert graphs.run(decode(1), lambda: 7) == 7
    assert not graphs.on
    assert "cannot be captured" in graphs.why_off


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_recorded_steps_give_the_text_of_plain_ones(load, family):
    model = tiny_model(family)
    recorder = FakeRecorder()
    spec = SamplerSpec(temperature=1.0, seed=5, repetition_penalty=1.2)
    recorded, plain = load(model, recorder=recorder), load(model)
    texts = [[int(r.tokens[0]) for r in generate(b, [4, 5, 6], 40, spec, logprobs=2)] for b in (recorded, plain)]
    assert texts[0] == texts[1]
    assert sum(each.replays for each in recorder.made) > 30


def test_batches_of_changing_size_keep_to_their_own_pages(load):
    model = tiny_model("qwen2")
    recorder = FakeRecorder()
    backend, exact = load(model, recorder=recorder), load(model)
    rng = np.random.default_rng(0)
    texts = {i: [int(t) for t in rng.integers(0, 80, 14)] for i in range(7)}
    seqs = {i: Seq([i, 10 + i]) for i in texts}
    for i, text in texts.items():
        backend.logits(make_batch(16, [(seqs[i], text[:4])]))
    for at in range(4, 14):
        active = [i for i in texts if (i + at) % 3 or at > 9]
        active = [i for i in active if seqs[i].length == at] or [i for i in texts if seqs[i].length < at + 1]
        batch = make_batch(16, [(seqs[i], [texts[i][seqs[i].length]]) for i in active])
        got = backend.logits(batch)
        for row, i in zip(got, active, strict=True):
            known = texts[i][: seqs[i].length]
            assert np.allclose(row, logits_of(exact, known, pages=[30, 31])[-1], atol=1e-4)
    assert len(backend.graphs.recorded) >= 2


def test_running_out_of_memory_drops_recordings_and_says_so(load, monkeypatch):
    from befit.errors import OutOfDeviceMemory

    backend = load(tiny_model("llama"), recorder=FakeRecorder())
    generate(backend, [4, 5, 6], 5)
    assert backend.graphs.recorded
    sampler = backend.new_sampler(SamplerSpec(), [4])
    batch = make_batch(16, [(Seq([0]), [4])], samplers=[sampler])

    def full(step):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(backend._executor, "run", full)
        backend.graphs.invalidate()
        with pytest.raises(OutOfDeviceMemory, match=r"step of 1 tokens and 1 sequences: tried to allocate 2 GiB"):
            backend.step(batch)
    assert sampler.output == []
    assert backend.step(batch).status.tolist() == [0]


def test_greedy_tokens_come_out_of_the_recording(load, monkeypatch):
    from befit.backends.cuda import backend as module

    model = tiny_model("llama")
    recorder = FakeRecorder()
    recorded, plain = load(model, recorder=recorder), load(model)
    texts = [[int(r.tokens[0]) for r in generate(plain, [4, 5, 6], 20, SamplerSpec())]]

    def never(*_):
        raise AssertionError("greedy rows were sampled after the recording")

    monkeypatch.setattr(module, "sample", never)
    texts.append([int(r.tokens[0]) for r in generate(recorded, [4, 5, 6], 20, SamplerSpec())])
    assert texts[0] == texts[1]
    with pytest.raises(AssertionError, match="after the recording"):
        generate(recorded, [4, 5, 6], 1, SamplerSpec(temperature=1.0))
