"""File systems and file attributes that tests ask the operating system for, where it lets them."""

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["append_only", "empty", "fill", "mounted", "read_only"]


def _run(name: str, *arguments: str) -> bool:
    """Run a program; return whether it could do what it was asked for."""
    program = shutil.which(name)
    return (
        program is not None and not subprocess.run([program, *arguments], check=False, capture_output=True).returncode
    )


@contextmanager
def mounted(directory: Path, size: str) -> Generator[None]:
    """Mount an empty file system in memory on *directory*; skip the test where that may not be done."""
    if not _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)):
        pytest.skip("may not mount")
    try:
        yield
    finally:
        # At once: a descriptor that is still open fails the test.
        assert _run("umount", str(directory))


@contextmanager
def read_only(directory: Path) -> Generator[None]:
    """Let nothing be written to the file system that is mounted on *directory*, to which no file is open."""
    assert _run("mount", "-o", "remount,ro", str(directory))
    try:
        yield
    finally:
        assert _run("mount", "-o", "remount,rw", str(directory))


def fill(directory: Path) -> None:
    """Leave no room on the file system of *directory*, until `empty`."""
    with suppress(OSError), (directory / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


def empty(directory: Path) -> None:
    """Undo `fill`."""
    (directory / "ballast").unlink()


@contextmanager
def append_only(path: Path) -> Generator[None]:
    """Make *path* append-only; skip the test where that may not be done."""
    if not _run("chattr", "+a", str(path)):
        pytest.skip("no append-only files here")
    try:
        yield
    finally:
        _run("chattr", "-a", str(path))
