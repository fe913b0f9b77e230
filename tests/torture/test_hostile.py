"""Whatever an event says, each provider writes what the other side takes, and nothing that it would act upon."""

import importlib

import pytest

from tests.providers.hostile import check_many

PROVIDERS = ("alertmanager", "apprise", "console", "opsgenie", "pagerduty", "slack", "smtp", "webhook")


@pytest.mark.parametrize("name", PROVIDERS)
def test_hostile_alerts(name: str) -> None:
    """Ten thousand hostile alerts are written within the limits and without markup."""
    check_many(importlib.import_module(f"tests.providers.test_{name}").check_hostile, 10_000)
