"""Real models for tests: SmolLM2 through befit's own pull, Qwen2.5-Coder by its path."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from befit import store
from befit.errors import BefitError

# The same examples in every run, and none too slow, so that a run says something about the code and not about luck or
# the machine. To look for new ones: pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

_SMOLLM2 = pytest.StashKey["Path | BefitError"]()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Where a shell runs the suite in the background: tests send SIGINT, and processes that they start inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ON_REQUEST = ("browser", "faults", "fuzz", "slow")
"""Markers of tests that run only where -m names them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what was not asked for."""
    wanted = config.option.markexpr
    left_out = [
        item for item in items if any(item.get_closest_marker(name) and name not in wanted for name in ON_REQUEST)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch SmolLM2 before the first test that wants it, so that no test's time limit covers a download."""
    if session.config.option.collectonly:
        return
    if any("smollm2_path" in getattr(item, "fixturenames", ()) for item in session.items):
        session.config.stash[_SMOLLM2] = _fetch(session.config)


def _fetch(config: pytest.Config) -> Path | BefitError:
    try:
        return store.resolve("smollm2:135m", pull=False)
    except BefitError:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"fetching smollm2:135m into {store.home()} ...")
    try:
        return store.resolve("smollm2:135m", progress=False)
    except BefitError as error:
        return error


@pytest.fixture(scope="session")
def smollm2_path(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct as GGUF. Without it the test is skipped, or fails when BEFIT_REQUIRE_MODEL is set."""
    found = request.config.stash[_SMOLLM2]
    if isinstance(found, Path):
        return found
    if os.environ.get("BEFIT_REQUIRE_MODEL"):
        pytest.fail(f"BEFIT_REQUIRE_MODEL is set and smollm2:135m cannot be had: {found}", pytrace=False)
    pytest.skip(f"smollm2:135m cannot be had: {found}")


@pytest.fixture(scope="session")
def qwen_path() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct as GGUF, the file that BEFIT_TEST_QWEN names; skipped when it is not set."""
    name = os.environ.get("BEFIT_TEST_QWEN")
    if not name:
        pytest.skip("BEFIT_TEST_QWEN does not name a Qwen2.5-Coder-0.5B GGUF file")
    return Path(name)
