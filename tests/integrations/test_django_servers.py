"""The Django site under real servers."""

from pathlib import Path

import pytest

pytest.importorskip("django")

from tests.doubles.django_servers import check_served


@pytest.mark.slow
@pytest.mark.parametrize("server", ["preload", "uvicorn"])
def test_what_a_server_answers_is_recorded_with_its_context(server: str, tmp_path: Path) -> None:
    """Each of many requests, with SIGTERM amid them, has its answer, its records, its context and its alerts."""
    check_served(server, tmp_path, requests=30)
