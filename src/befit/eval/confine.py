"""The child of `sandbox`: shuts itself in and runs a program. Imports nothing of befit, and runs with `python -I -S`.

It reads a JSON object from standard input: `program`, and the limits of `sandbox.Limits`. Shut in means: no network but
an empty namespace's, no other processes to be seen and none to be started, writes only below the working directory
(Landlock), no capabilities, and limits on memory, processor time, files and their sizes. It answers on what was its
standard output, which the program does not have any more: `{"open": [...]}` names what could not be shut, and
`{"passed": true}` or `{"error": text}` follows.

Sources: unshare(2), landlock(7), setrlimit(2), capset(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWPID = 0x10000000, 0x40000000, 0x08000000, 0x20000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))
"""Landlock's first version: writing a file, removing, and making of every kind."""
CAPABILITIES_V3 = 0x20080522
NOBODY = 65534
_libc = ctypes.CDLL(None, use_errno=True)


def shut_in(limits: dict[str, int]) -> list[str]:
    """Take away what a program needs not; returns what could not be."""
    left = []
    if _unshare():
        _go_on_as_a_child()
    else:
        left.append("the network, other processes (unshare is not permitted)")
    if os.geteuid() == 0:
        # The limit on processes counts by the real user, and never for root. Files are read as the effective user:
        # Python's library may be root's alone.
        os.setgroups([])
        os.setresuid(NOBODY, 0, 0)
    if not _no_capabilities():
        left.append("root's rights (capset is not permitted)")
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not _writes_only_here():
        left.append("the file system (Landlock is not there)")
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_CPU, limits["seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_size"]),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (value, value))
    return left


def _unshare() -> bool:
    """Leave the namespaces of the network, of System V's objects and, for children, of process ids."""
    alone = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID
    return any(_libc.unshare(flags) == 0 for flags in (alone, alone | CLONE_NEWUSER))


def _go_on_as_a_child() -> None:
    """Return in a child, the first process of its namespace, to which others are not there; the parent ends like it."""
    child = os.fork()
    if child == 0:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def _no_capabilities() -> bool:
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0)
    done: int = _libc.capset(header, (ctypes.c_uint32 * 6)())
    return done == 0


class _Below(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _writes_only_here() -> bool:
    handled = ctypes.c_uint64(WRITES)
    rules = _libc.syscall(LANDLOCK_CREATE, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if rules < 0:
        return False
    here = os.open(".", os.O_PATH | os.O_DIRECTORY)
    below = _Below(WRITES, here)
    added = _libc.syscall(LANDLOCK_ADD, rules, 1, ctypes.byref(below), 0)
    done: bool = added == 0 and _libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(here)
    os.close(rules)
    return done


def main() -> None:
    """See the module's docstring."""
    job: dict[str, Any] = json.load(sys.stdin)
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)

    def answer(**values: Any) -> None:
        os.write(answers, json.dumps(values).encode() + b"\n")

    code = compile_or_tell(job["program"], answer)
    left = shut_in(job["limits"])
    answer(open=left)
    if code is None or (left and not job["anyway"]):
        return
    try:
        exec(code, {"__name__": "__main__"})
    except MemoryError:
        answer(error="MemoryError")
    except BaseException as error:
        answer(error=f"{type(error).__name__}: {str(error)[:300]}".rstrip(": "))
    else:
        answer(passed=True)


def compile_or_tell(program: str, answer: Any) -> Any:
    """The program's code, or None after the answer that it has none."""
    try:
        return compile(program, "<program>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        answer(error=f"{type(error).__name__}: {str(error)[:300]}")
        return None


if __name__ == "__main__":
    main()
