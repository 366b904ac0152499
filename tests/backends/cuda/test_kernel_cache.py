"""Where compiled kernels are kept."""

from __future__ import annotations

import os
import stat

import pytest

from befit.backends.cuda.kernel_cache import VARIABLE, keep_kernels


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("BEFIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, "")  # so that what is set is undone
    return tmp_path / "home"


def test_each_card_and_versions_have_a_folder_that_is_the_users_own(home):
    keep_kernels("NVIDIA GeForce RTX 4060 Ti", (8, 9))
    (folder,) = (home / "kernels").iterdir()
    assert os.environ[VARIABLE] == str(folder)
    assert folder.name.startswith("nvidia-geforce-rtx-4060-ti-sm89-torch-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_the_user_names_is_left_alone(home, monkeypatch):
    monkeypatch.setenv(VARIABLE, "/somewhere")
    keep_kernels("NVIDIA H100", (9, 0))
    assert os.environ[VARIABLE] == "/somewhere"
    assert not home.exists()


def test_a_folder_that_others_may_write_or_that_cannot_be_made_is_not_used(home, monkeypatch):
    keep_kernels("NVIDIA H100", (9, 0))
    (folder,) = (home / "kernels").iterdir()
    monkeypatch.setenv(VARIABLE, "")
    folder.chmod(0o777)
    keep_kernels("NVIDIA H100", (9, 0))
    assert os.environ[VARIABLE] == ""
    monkeypatch.setenv("BEFIT_HOME", "/dev/null/home")
    keep_kernels("NVIDIA H100", (9, 0))
    assert os.environ[VARIABLE] == ""
