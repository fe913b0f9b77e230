"""What several torture tests need."""

import os
import shutil
import subprocess

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave the tests of this folder, the short ones too, to `make torture`."""
    item.add_marker(pytest.mark.torture)


@pytest.fixture(scope="session")
def strace() -> str:
    """The path of strace, where it is installed and may trace."""
    path = shutil.which("strace")
    if path is None or subprocess.run([path, "-qq", "-e", "trace=none", "true"], check=False).returncode:
        pytest.skip("no strace that may trace")
    return path


@pytest.fixture
def without_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: for tests that set a thousand pieces aside, and are not about what is on the disk."""

    def do_nothing(fd: int) -> None:
        pass

    monkeypatch.setattr(os, "fsync", do_nothing)
    monkeypatch.setattr(os, "fdatasync", do_nothing)
