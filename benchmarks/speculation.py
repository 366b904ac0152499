#!/usr/bin/env python3
"""What speculative decoding gains and costs, in one process on one loaded model.

    python benchmarks/speculation.py MODEL [--draft MODEL] [--speculate auto] [--rounds 3] [--only rewrite]

Workloads: rewriting a file of 60 lines with a small edit (one client), ordinary chat (one client, then eight), and a
rewrite beside a chat. Each runs without and with speculation in turn, so that a change in the machine's
speed hits both; the numbers are medians over the rounds. Tokens per second are those after each request's first token,
summed over clients. Exit code 1 when any output differs.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace

from befit.config import EngineOptions
from befit.engine.core import Engine
from befit.engine.load import load_model
from befit.llm import LLM
from befit.sampling import SamplingParams

FILE = '''"""A small inventory: items with quantities and prices."""

import json
from pathlib import Path


class Item:
    """One kind of thing that is kept in stock."""

    def __init__(self, name, quantity, price):
        self.name = name
        self.quantity = quantity
        self.price = price

    def value(self):
        return self.quantity * self.price

    def to_dict(self):
        return {"name": self.name, "quantity": self.quantity, "price": self.price}


class Inventory:
    def __init__(self, path):
        self.path = Path(path)
        self.items = {}

    def load(self):
        if not self.path.exists():
            return
        with self.path.open() as file:
            for entry in json.load(file):
                item = Item(entry["name"], entry["quantity"], entry["price"])
                self.items[item.name] = item

    def save(self):
        with self.path.open("w") as file:
            json.dump([item.to_dict() for item in self.items.values()], file, indent=2)

    def add(self, name, quantity, price):
        if name in self.items:
            self.items[name].quantity += quantity
        else:
            self.items[name] = Item(name, quantity, price)

    def remove(self, name, quantity):
        item = self.items.get(name)
        if item is None or item.quantity < quantity:
            raise ValueError(f"not enough {name} in stock")
        item.quantity -= quantity
        if item.quantity == 0:
            del self.items[name]

    def total(self):
        return sum(item.value() for item in self.items.values())


def main():
    inventory = Inventory("stock.json")
    inventory.load()
    inventory.add("screw", 100, 0.05)
    print(f"total value: {inventory.total():.2f}")
'''
EDITS = [
    "Rename the method `total` to `total_value`.",
    "Rename the class Item to Product everywhere.",
    "Add type hints to the method `add`.",
]
QUESTIONS = [
    "Write a Python function that merges two sorted lists, with a docstring.",
    "Explain what a hash table is and when to use one.",
    "Write a bash script that counts the lines of all .py files below a folder.",
    "What is the difference between a process and a thread?",
    "Write a SQL query for the ten customers with the most orders in 2023.",
    "How does garbage collection work in Python?",
    "Write a JavaScript function that debounces another function.",
    "Give me five tips for writing readable code.",
]


def rewrite(edit):
    return f"{edit} Answer with the whole file and nothing else.\n\n```python\n{FILE}```"


WORKLOADS = {
    "rewrite": [[rewrite(edit)] for edit in EDITS],
    "chat, 1 client": [[question] for question in QUESTIONS[:4]],
    "chat, 8 clients": [QUESTIONS],
    "rewrite beside chat": [[rewrite(EDITS[0]), QUESTIONS[1]]],
}


def run(model, speculation, draft, encode, batches, params):
    """Outputs of all requests, tokens per second, and the engine's counts."""
    loaded = replace(
        model, config=replace(model.config, speculation=speculation), draft=draft if speculation != "off" else None
    )
    engine = Engine(loaded)
    outputs, tokens, seconds = [], 0, 0.0
    for prompts in batches:
        requests = {engine.add_request(encode(prompt), params).id: [] for prompt in prompts}
        begin = 0.0
        while engine.has_work:
            for request, delta in engine.step():
                if not begin:
                    begin = time.perf_counter()
                tokens += len(delta.token_ids) if requests[request.id] else 0
                requests[request.id] += delta.token_ids
        seconds += time.perf_counter() - begin
        outputs += requests.values()
    return outputs, tokens / seconds, engine.stats()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--draft")
    p.add_argument("--speculate", default="auto", choices=["auto", "lookup", "draft"])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--max-tokens", type=int, default=500)
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--only", choices=list(WORKLOADS))
    p.add_argument("--json")
    a = p.parse_args()
    options = EngineOptions(ctx=2048, max_seqs=8, prefix_cache=False, draft=a.draft, speculation=a.speculate)
    model = load_model(a.model, options)
    llm, draft = LLM(model), model.draft
    params = SamplingParams(temperature=a.temperature, seed=1, max_tokens=a.max_tokens)
    results, same = {}, True

    def encode(prompt):
        return llm._chat_template().encode([{"role": "user", "content": prompt}], add_generation_prompt=True)

    for name, batches in WORKLOADS.items():
        if a.only not in (None, name):
            continue
        rates = {"off": [], a.speculate: []}
        for number in range(a.rounds):
            for mode in (rates, reversed(rates))[number % 2]:
                outputs, rate, stats = run(model, mode, draft, encode, batches, params)
                rates[mode].append(rate)
                if mode == "off":
                    plain = outputs
                else:
                    spoken, used = outputs, stats
            same &= plain == spoken
        off, on = (statistics.median(each) for each in rates.values())
        results[name] = {
            "off tok/s": round(off, 1),
            f"{a.speculate} tok/s": round(on, 1),
            "ratio": round(statistics.median(y / x for x, y in zip(*rates.values(), strict=True)), 2),
            "drafted": used.drafted_tokens_total,
            "accepted": used.accepted_tokens_total,
            "mean acceptance length": round(used.mean_acceptance_length, 2),
            "share of output drafted": round(used.accepted_tokens_total / used.output_tokens_total, 2),
        }
        print(f"{name:20}", ", ".join(f"{key} {value}" for key, value in results[name].items()), flush=True)
    print("outputs are equal" if same else "OUTPUTS DIFFER")
    if a.json:
        with open(a.json, "w") as file:
            json.dump({"model": model.name, "draft": a.draft, "results": results}, file, indent=2)
            file.write("\n")
    sys.exit(not same)


if __name__ == "__main__":
    main()
