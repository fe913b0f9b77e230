"""The applications of the docs under each server, ended amid requests."""

from pathlib import Path

import pytest

from tests.doubles.ended_servers import COMMANDS, check_ended

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("app", ["fastapi", "starlette", "litestar", "quart"])
def test_every_server_that_is_ended_has_recorded_what_it_answered(app: str, command: str, tmp_path: Path) -> None:
    """By SIGTERM amid requests each server ends in time, and each request that it answered is in the chain once."""
    if (app, command) == ("quart", "trio"):
        pytest.skip("Quart runs on asyncio alone")
    check_ended(app, command, tmp_path)
