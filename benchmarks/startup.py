#!/usr/bin/env python3
"""How fast `befit serve` starts and stops, and how much memory it has when it is ready.

    python benchmarks/startup.py MODEL|DIR [--runs 5] [--port N] [--json FILE] [options of befit serve]

Every run is a new process. Measured, with min, median and max over the runs:

    ready          process start → first 200 of /health, asked every 5 ms             seconds
    TTFT           send of the first completion → its first event with a choice       seconds
    first token    process start → that event                                         seconds
    exit           SIGTERM → the process has ended                                    seconds
    resident       VmRSS when ready; pages of the file that are mapped count too      bytes
    peak           VmHWM when ready: the most that loading took                       bytes

The bound on memory is the size of the file, or of a built folder, × 1.4 + KV pool in use + 150 MB. When ready no
request has come, so nothing of the KV pool is in use. The first run may have to read the file from disk; the later
ones find it in the page cache.
Exit code 1 when a run's peak is above the bound.
"""

import argparse
import asyncio
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from completions import Server, exchange

from befit import store

POLL_SECONDS = 0.005
START_LIMIT = 600
PROMPT = "def fibonacci(n):\n"
TIMES = ("ready", "ttft", "first_token", "exit")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def healthy(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def memory(pid):
    """(VmRSS, VmHWM) of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def measure(command, port, log):
    """One run of the server."""
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT)
    try:
        while not healthy(port):
            if process.poll() is not None or time.perf_counter() - start > START_LIMIT:
                log.seek(0)
                sys.exit(f"The server did not start (exit status {process.poll()}):\n{log.read().decode()}")
            time.sleep(POLL_SECONDS)
        ready = time.perf_counter()
        resident, peak = memory(process.pid)
        server = Server("befit", "127.0.0.1", port, "/v1", model="")
        body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        answer = asyncio.run(exchange(server, json.dumps(body).encode(), time.perf_counter()))
        stop = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        end = time.perf_counter()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status != 0:
        sys.exit(f"The server ended with status {status} after SIGTERM.")
    return {
        "ready": ready - start, "ttft": answer.first - answer.sent, "first_token": answer.first - start,
        "exit": end - stop, "resident": resident, "peak": peak,
    }  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--port", type=int, default=0, help="[default: a free one]")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every run's numbers there")
    a, options = p.parse_known_args()
    if a.runs < 1:
        p.error("--runs must be at least 1")
    path = store.resolve(a.model)  # fetched here if need be, not while the clock runs
    files = path.iterdir() if path.is_dir() else [path]
    size, load = sum(file.stat().st_size for file in files), os.getloadavg()[0]
    bound = int(size * 1.4) + 150_000_000
    command = [sys.executable, "-m", "befit.cli", "serve", a.model, *options]
    cores, python = len(os.sched_getaffinity(0)), platform.python_version()
    print(f"{path.name}, {size / 1e6:.1f} MB; {cores} cores, load {load:.2f}, Python {python}")
    if load > 0.5:
        print(f"Warning: the load average at the start is {load:.2f}: something else runs here.")

    runs = []
    for number in range(a.runs):
        with tempfile.TemporaryFile() as log:
            runs.append(measure(command, a.port or free_port(), log))
        print(f"run {number + 1}: ready after {runs[-1]['ready']:.3f} s", file=sys.stderr, flush=True)
    summary = {}
    print(f"{'':16} {'min':>9} {'median':>9} {'max':>9}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        summary[name] = {"min": min(values), "median": statistics.median(values), "max": max(values)}
        label, scale, digits = (f"{name} s", 1, 3) if name in TIMES else (f"{name} MB", 1e6, 1)
        print(f"{label:16}" + "".join(f" {value / scale:9.{digits}f}" for value in summary[name].values()))
    print(f"bound on memory: {size / 1e6:.1f} MB × 1.4 + no KV in use + 150 MB = {bound / 1e6:.1f} MB")
    if a.json:
        report = {"model": path.name, "file_bytes": size, "bound_bytes": bound, "cores": cores, "load": load}
        report |= {"python": python, "options": options, "summary": summary, "runs": runs}
        a.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if summary["peak"]["max"] > bound else 0


if __name__ == "__main__":
    sys.exit(main())
