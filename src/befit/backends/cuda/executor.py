"""A program run op by op on the device, with neighbouring ops fused where a kernel does both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from befit.backends.cuda import ops
from befit.backends.cuda.choices import Choices
from befit.backends.cuda.kv import KVPool
from befit.backends.cuda.staging import StepInput
from befit.backends.cuda.weights import Weights
from befit.models.program import Act, Add, Attention, Embed, GatedAct, Linear, Logits, Norm, Op, Program, Rope


@dataclass(frozen=True, slots=True)
class AddNorm:
    """`Add` and the RMS norm that reads its sum."""

    add: Add
    norm: Norm


Instruction: TypeAlias = Op | AddNorm


def fuse(program: Program) -> list[Instruction]:
    """The ops, with each Add and the RMS norm right behind it that reads its sum as one."""
    out: list[Instruction] = []
    for op in program.ops:
        last = out[-1] if out else None
        plain = isinstance(op, Norm) and op.kind == "rms" and op.bias is None
        if plain and isinstance(op, Norm) and isinstance(last, Add) and op.x == last.out and op.out != last.out:
            out[-1] = AddNorm(last, op)
        else:
            out.append(op)
    return out


class Executor:
    """Runs steps of one program."""

    def __init__(self, program: Program, weights: Weights, kv: KVPool, choices: Choices, dtype: torch.dtype) -> None:
        self.program = program
        self._weights = weights
        self._kv = kv
        self._choices = choices
        self._dtype = dtype
        self._instructions = fuse(program)
        device = next(iter(kv.pages.values())).k.values.device
        ropes = dict.fromkeys(op.rope for op in program.attentions() if op.rope is not None)
        self._inv_freq: dict[Rope, torch.Tensor] = {
            rope: torch.tensor(rope.inv_freq, dtype=torch.float64, device=device) for rope in ropes
        }

    def run(self, step: StepInput) -> tuple[torch.Tensor, torch.Tensor]:
        """(what the head reads at the rows, float32 [R + H, hidden]; logits of the first R, float32 [R, vocab]).

        A program without a head gives its last op's result for every token, [T, hidden], and no logits.
        """
        values: dict[str, torch.Tensor] = {}
        turns = {rope: ops.angles(step.positions, inv_freq, rope.scale) for rope, inv_freq in self._inv_freq.items()}
        weights = self._weights
        for op in self._instructions:
            match op:
                case Embed():
                    values[op.out] = ops.embed(weights.matrix(op.weight), step.tokens, op.scale)
                case AddNorm():
                    add, norm = op.add, op.norm
                    values[add.out], values[norm.out] = self._choices.add_norm(
                        values[add.a], values[add.b], weights.vector(norm.weight), norm.eps, self._dtype
                    )
                case Norm():
                    values[op.out] = self._norm(op, values[op.x])
                case Linear():
                    values[op.out] = self._choices.linear(
                        values[op.x].to(self._dtype), weights.matrix(op.weight), weights.vector(op.bias)
                    )
                case Attention():
                    values[op.out] = self._attention(op, values, step, turns)
                case Act():
                    values[op.out] = ops.activation(values[op.x], op.fn)
                case GatedAct():
                    values[op.out] = self._choices.gated(values[op.gate], values[op.up], op.fn)
                case Add():
                    values[op.out] = values[op.a].float() + values[op.b].float()
                case Logits():
                    final = values[op.x].index_select(0, step.rows)
                    if not step.shape.rows:
                        return final.float(), final.new_empty((0, self.program.vocab_size), dtype=torch.float32)
                    head = final[: step.shape.rows].to(self._dtype)
                    logits = self._choices.linear(head, weights.matrix(op.weight), None)
                    return final.float(), logits.float()
        last = self.program.ops[-1]
        assert not isinstance(last, Logits)
        result = values[last.out].float()
        return result, result.new_empty((0, self.program.vocab_size))

    def _norm(self, op: Norm, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._weights.vector(op.weight), self._weights.vector(op.bias)
        if op.kind == "layer":
            return ops.layer_norm(x, weight, bias, op.eps).to(self._dtype)
        normed = ops.rms_norm(x, weight, op.eps)
        return (normed if bias is None else normed + bias).to(self._dtype)

    def _attention(
        self,
        op: Attention,
        values: dict[str, torch.Tensor],
        step: StepInput,
        turns: dict[Rope, tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        n_tokens = step.shape.tokens
        q = values[op.q].view(n_tokens, op.n_heads, op.head_dim)
        k = values[op.k].view(n_tokens, op.n_kv_heads, op.head_dim)
        v = values[op.v].view(n_tokens, op.n_kv_heads, op.head_dim)
        if op.q_norm:
            q = ops.rms_norm(q, self._weights.vector(op.q_norm), op.norm_eps).to(self._dtype)
        if op.k_norm:
            k = ops.rms_norm(k, self._weights.vector(op.k_norm), op.norm_eps).to(self._dtype)
        layer = self._kv.pages[op.layer]
        turn = turns[op.rope] if op.rope is not None else None
        interleaved = op.rope is not None and op.rope.interleaved
        q = self._choices.rope_and_write(q, k, v, turn, interleaved, layer, step.slots)
        if step.shape.decode:
            out = self._choices.attend_one(q, layer, step.tables, step.context, op.scale, op.window)
        else:
            out = torch.empty_like(q)
            for s, length in enumerate(step.lengths.tolist()):
                part = slice(int(step.query_start[s]), int(step.query_start[s + 1]))
                out[part] = ops.attend_many(
                    q[part], layer, step.tables[s], step.positions[part], length, op.scale, op.window
                )
        return out.reshape(n_tokens, op.n_heads * op.head_dim)
