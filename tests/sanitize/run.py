"""The native code under GCC's sanitizers: python tests/sanitize/run.py [address|thread ...] [-- PYTEST ARGUMENTS]

Builds the package anew, once with AddressSanitizer and UndefinedBehaviorSanitizer and once with ThreadSanitizer, into
build/sanitize/, and runs tests of the native backend with each build: every instruction set that this CPU has. With the
first, SmolLM2 generates too. The first report of a sanitizer ends the run. Needs g++ and Linux, and what `pip install`
needs.

Nothing is suppressed. Leaks are not looked for, because CPython frees little at its end; and ThreadSanitizer sees only
what is compiled with it, which is befit's own code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILDS = {"address": "address,undefined", "thread": "thread"}
RUNTIMES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
TESTS = {
    "address": ["tests/backends/native", "tests/prepared/test_build.py", "tests/engine/test_determinism.py"],
    "thread": ["tests/backends/native"],
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1",
}
# Python reads this file at its start. An editable installation would come before the build that PYTHONPATH names.
SITE = (
    "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'ScikitBuildRedirectingFinder']\n"
)
HERE = "from befit.backends.native import _native; print(_native.__file__, *_native.isas())"


def build(kind: str, folder: Path) -> Path:
    """Install the package, compiled with a sanitizer, into a folder of its own."""
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    settings = {
        "build-dir": folder / "build",
        "cmake.build-type": "RelWithDebInfo",
        "cmake.define.BEFIT_SANITIZE": BUILDS[kind],
        "install.strip": "false",
    }
    options = [f"--config-settings={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, *options, ROOT]
    subprocess.run(command, check=True)
    (site / "sitecustomize.py").write_text(SITE)
    return site


def environment(kind: str, site: Path) -> dict[str, str]:
    """What a Python needs to run with that build: the sanitizer's run time must be there before all else."""
    names = [*RUNTIMES[kind], "libstdc++.so"]
    found = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
    memory = {"PYTHONMALLOC": "malloc"} if kind == "address" else {}
    return {**os.environ, **OPTIONS, **memory, "LD_PRELOAD": " ".join(found), "PYTHONPATH": str(site)}


def python(kind: str) -> list[str]:
    """The interpreter. Older ThreadSanitizers cannot live with addresses as random as newer kernels make them."""
    bits = Path("/proc/sys/vm/mmap_rnd_bits")
    fixed = kind == "thread" and bits.exists() and int(bits.read_text()) > 28
    return [*(["setarch", "--addr-no-randomize"] if fixed else []), sys.executable]


def run(kind: str, arguments: list[str]) -> int:
    """Build and test; the status of the tests."""
    began = time.monotonic()
    folder = ROOT / "build" / "sanitize" / kind
    site = build(kind, folder)
    env, interpreter = environment(kind, site), python(kind)
    built = time.monotonic()
    where = subprocess.check_output([*interpreter, "-c", HERE], env=env, text=True).strip()
    print(f"{kind}: built in {built - began:.0f} s, {where}", flush=True)
    if not where.startswith(str(site)):
        raise SystemExit(f"the tests would import {where} instead of the build in {site}")
    # -s: a report goes to where it is seen; the limit of a test is for one that hangs.
    command = [*interpreter, "-m", "pytest", "-q", "-s", "--timeout", "300", *(arguments or TESTS[kind])]
    status = subprocess.run(command, env=env, cwd=ROOT, check=False).returncode
    print(f"{kind}: status {status} after {time.monotonic() - built:.0f} s of tests", flush=True)
    return status


def main() -> int:
    """0 when no sanitizer had anything to report and all tests passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="address|thread", help="which builds; both, when none is named")
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    kinds = parser.parse_args(given[:cut]).kinds or list(BUILDS)
    if unknown := set(kinds) - set(BUILDS):
        parser.error(f"{', '.join(unknown)} is none of {', '.join(BUILDS)}")
    return max([run(kind, given[cut + 1 :]) for kind in kinds], key=abs)


if __name__ == "__main__":
    sys.exit(main())
