"""Whatever an event says, each provider writes what the other side takes, and nothing that it would act upon."""

import importlib
from collections.abc import Iterator

import pytest

from tests.doubles.malicious_alerts import check_many

MANY = 10_000
A_ROUND = 100

PROVIDERS = ("alertmanager", "apprise", "console", "opsgenie", "pagerduty", "slack", "smtp", "webhook")


@pytest.mark.parametrize("name", PROVIDERS)
def test_hostile_alerts(name: str, rounds: Iterator[int]) -> None:
    """Ten thousand hostile alerts, or as many as there is time for, are written within limits and without markup."""
    check = importlib.import_module(f"tests.providers.test_{name}").check_hostile
    for number in rounds:
        check_many(check, A_ROUND, first=number * A_ROUND)
        if (number + 1) * A_ROUND >= MANY:
            break
