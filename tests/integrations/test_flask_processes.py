"""The Flask application of the docs as processes of its own."""

from pathlib import Path

import pytest

from tests.doubles.ended_servers import check_ended


@pytest.mark.slow
def test_a_server_that_is_ended_has_recorded_what_it_answered(tmp_path: Path) -> None:
    """By SIGTERM amid requests gunicorn ends in time, and each request that it answered is in the chain once."""
    check_ended("flask", "gthread-preload", tmp_path)
