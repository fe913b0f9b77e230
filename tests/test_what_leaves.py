"""What leaves the process is what the page says, whoever watches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fapilog.providers._rendering import disclosure_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "what-leaves-the-process.md"
WATCHED = ROOT / "tests" / "programs" / "watched_alerts.py"
SECRET, PERSON = "T0PSECRETT0PSECRETT0PSEC", "JOHN-Q-PATIENT"

# Each watcher, the libraries that it needs beside those of the providers, and what it is to see of the application.
LOCALS = "LOCAL-VARIABLE"
REQUESTS = ["/seen-by-httpx2", "/seen-by-requests"]
WATCHERS = {
    "repr": ([], [LOCALS]),
    "sentry": (["sentry_sdk"], [LOCALS, *REQUESTS]),
    "sentry-attach-stacktrace": (["sentry_sdk"], [LOCALS, *REQUESTS]),
    "opentelemetry": ([f"opentelemetry.instrumentation.{name}" for name in ("httpx", "requests", "urllib3")], REQUESTS),
    "structlog": (["structlog"], [LOCALS]),
    "loguru": (["loguru"], []),
    "rich": (["rich"], [LOCALS]),
}


# These see no more than the others do, and take as long as all of them; "repr" looks at trio.
SLOW = {"repr", "sentry-attach-stacktrace", "structlog", "loguru", "rich"}


def test_the_table_is_made_of_the_code() -> None:
    """The page has the table of fields by level of disclosure as the code prints it."""
    assert f"\n\n{disclosure_table()}\n" in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize(
    ("watcher", "backend"),
    [
        *(pytest.param(name, "asyncio", marks=[pytest.mark.torture] * (name in SLOW)) for name in WATCHERS),
        ("repr", "trio"),
    ],
)
def test_no_watcher_sees_a_secret_or_a_person(tmp_path: Path, watcher: str, backend: str) -> None:
    """Whatever fails, a crash reporter, a tracer or a log gets no secret and no person, and all of the application."""
    libraries, seen = WATCHERS[watcher]
    for library in ("apprise", "httpx2", *libraries):
        pytest.importorskip(library)
    child = subprocess.run(
        [sys.executable, "-m", "tests.programs.watched_alerts", str(tmp_path), backend, watcher],
        input=json.dumps({"secret": SECRET, "person": PERSON}),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=170,
    )
    sent, _, count = child.stdout.strip().rpartition("\n")
    assert int(count) > 80
    assert [word for word in seen if word not in sent] == []
    shown = [line for line in (sent + child.stderr).splitlines() if SECRET in line or PERSON in line]
    assert shown == []
