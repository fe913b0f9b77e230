"""Configurations with mistakes, and the secrets that no message about them shows."""

import traceback
from collections.abc import Mapping
from typing import Any

import pytest

from fapilog import AuditTrail
from fapilog.config import ConfigError

__all__ = ["KEY", "SECRET", "check_problems", "problems_of"]

SECRET = "s3cr3t-0f-ours"
KEY = "0123456789abcdef0123456789abcdef"


def problems_of(config: Mapping[str, Any]) -> list[str]:
    """Return the errors of *config*, and check that no secret is in them or behind them."""
    with pytest.raises(ConfigError) as caught:
        AuditTrail.from_config(config)
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    assert KEY not in told
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def check_problems(config: Mapping[str, Any], expected: list[str]) -> None:
    """Check that *config* has the errors that begin so, and no others."""
    told = problems_of(config)
    assert len(told) == len(expected)
    for line, words in zip(told, expected, strict=True):
        assert line.startswith(words)
