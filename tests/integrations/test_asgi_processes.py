"""An application of the docs as a process of its own."""

from pathlib import Path

from tests.doubles.ended_servers import check_ended


def test_a_server_that_is_ended_has_recorded_what_it_answered(tmp_path: Path) -> None:
    """By SIGTERM amid requests a server ends in time, and each request that it answered is in the chain once."""
    check_ended("starlette", "trio", tmp_path)
