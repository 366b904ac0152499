"""Fuzzing with coverage: python tests/fuzz/run.py [--minutes 1] [--seconds-an-input 10] [TARGET ...]

Needs `pip install atheris`. Each target (all of them, when none is named; see targets.py) begins with what it found
interesting before, in build/fuzz/TARGET/corpus, and with small inputs of the tests. An input that raises anything but
an error of befit's own, takes longer than that or more than 2 GB is kept as build/fuzz/TARGET/finding-…; to see it
again: python tests/fuzz/target.py TARGET FILE. Exit status 1 when there was one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]


def fuzz(name: str, seconds: int, longest: float) -> bool:
    """Run one target; whether nothing was found."""
    home = ROOT / "build" / "fuzz" / name
    corpus, seeds = home / "corpus", home / "seeds"
    for folder in (corpus, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[name].seeds():
        (seeds / sha256(seed).hexdigest()[:16]).write_bytes(seed)
    command = [
        sys.executable,
        str(Path(__file__).with_name("target.py")),
        name,
        str(corpus),
        str(seeds),
        f"-max_total_time={seconds}",
        f"-timeout={longest:g}",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={home}/finding-",
        "-print_final_stats=1",
    ]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    with open(home / "log", "wb") as log:
        env = {**os.environ, "PYTHONPATH": path}
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=env, check=False).returncode
    text = (home / "log").read_text(errors="replace")
    inputs = re.findall(r"number_of_executed_units: (\d+)", text)
    covered = re.findall(r"cov: (\d+)", text)
    print(
        f"{name}: {inputs[-1] if inputs else 0} inputs, {covered[-1] if covered else 0} edges, status {status}",
        flush=True,
    )
    if status:
        print(f"  see {home / 'log'}", *re.findall(r"Test unit written to (\S+)", text), flush=True)
    return status == 0


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=1, help="for each target")
    parser.add_argument("--seconds-an-input", type=float, default=10, help="by the wall clock; more on a busy machine")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"{', '.join(unknown)} is none of {', '.join(TARGETS)}")
    results = [fuzz(name, int(60 * given.minutes), given.seconds_an_input) for name in given.targets or TARGETS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
