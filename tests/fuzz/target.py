"""One target under atheris: python tests/fuzz/target.py NAME CORPUS [LIBFUZZER OPTIONS]. See run.py."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import atheris

with atheris.instrument_imports(include=["befit", "jinja2", "uvicorn"]):
    from mutate import json_mutator
    from targets import TARGETS

    target = TARGETS[sys.argv[1]]
    one = target.make()
    for seed in target.seeds():  # what is imported on first use is instrumented too
        one(seed)

logging.disable(logging.CRITICAL)
arguments = [sys.argv[0], *sys.argv[2:], f"-max_len={target.longest}"]
if target.words:
    atheris.Setup(arguments, one, custom_mutator=json_mutator(target.words))
else:
    atheris.Setup(arguments, one)
atheris.Fuzz()
