"""One at a time, whoever it is."""

import subprocess
import sys
import threading
from pathlib import Path

from befit.store.lock import alone


def test_the_second_one_waits_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "one"
    events: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with alone(path, waiting.set):
            events.append("second")

    with alone(path, lambda: events.append("never")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        events.append("first")
    thread.join(60)
    assert events == ["first", "second"]


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "one"
    waiting, held, done = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        with alone(path, waiting.set):
            held.set()
            done.wait(60)

    with alone(path, lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        path.unlink()
    assert held.wait(60)
    told = threading.Event()
    third = threading.Thread(target=lambda: alone(path, told.set).__enter__())
    third.start()
    assert told.wait(60)  # the second one holds the lock that is there now
    done.set()
    thread.join(60)
    third.join(60)


def test_the_hubs_own_tools_wait_for_it_too(tmp_path: Path) -> None:
    path = tmp_path / "one"
    code = (
        "import sys; from filelock import FileLock, Timeout\n"
        "try: FileLock(sys.argv[1]).acquire(timeout=0.1)\n"
        "except Timeout: print('waits')"
    )
    with alone(path, lambda: None):
        said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert said.stdout == "waits\n"
