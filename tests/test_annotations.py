"""Every annotation of a public class or function can be read by those who have only the class or the function."""

import importlib
import inspect
import subprocess
import sys
import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

import fapilog
from fapilog import AlertDispatcher, AuditStorage, DurableDispatcher
from fapilog.core.alerting import Reporter
from fapilog.storage.archive import Archive
from tests.doubles import django_site
from tests.doubles.modules import PUBLIC

# The command; it runs when it is imported.
NOT_TO_IMPORT = {"__main__.py"}
# A class of psycopg, whose own annotations name types that psycopg imports for type checkers alone.
NOT_OURS = {"fapilog.storage.postgres.connection.Connection"}


def functions_of(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield *found*, a class or a function, and the methods that a class has from us, with the ends of their names."""
    yield "", found
    for name, member in inspect.getmembers_static(found) if inspect.isclass(found) else ():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and function.__module__.startswith("fapilog.") and name != "__new__":
            yield f".{name}", function


def unread(names: dict[str, Any]) -> dict[str, str]:
    """Return the classes and functions among *names*, and their methods, whose annotations can't be read, and why."""
    wrong = {}
    for name, found in names.items():
        if name in NOT_OURS or not (inspect.isclass(found) or inspect.isfunction(found)):
            continue
        for suffix, function in functions_of(found):
            try:
                typing.get_type_hints(function, include_extras=True)
            except Exception as error:
                wrong[name + suffix] = f"{type(error).__qualname__}: {error}"
    return wrong


@pytest.mark.parametrize("path", [path for path in PUBLIC if str(path) not in NOT_TO_IMPORT], ids=str)
def test_annotations_can_be_read(path: Path) -> None:
    """The annotations of all that a public module has, and of its methods, name types that can be found."""
    if "django" in path.parts:
        django_site.set_up()
    name = ".".join(["fapilog", *path.with_suffix("").parts]).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert not unread({f"{name}.{each}": getattr(module, each) for each in getattr(module, "__all__", ())})


def test_what_is_asked_for_is_imported() -> None:
    """The arguments of a trail have the types themselves, and not stand-ins."""
    hints = typing.get_type_hints(fapilog.AuditTrail.__init__)
    assert hints["storage_path"] == Path | str | None
    assert hints["archive"] == Archive | Path | str | None
    assert typing.get_type_hints(fapilog.CompliancePolicy)["rules"] == Collection[fapilog.Threshold]
    assert typing.get_type_hints(fapilog.AuditTrail.sync.fget)["return"] is fapilog.SyncAuditTrail  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", [AlertDispatcher, DurableDispatcher, Reporter, AuditStorage, Archive])
def test_what_a_user_implements_can_be_checked(protocol: type) -> None:
    """`isinstance` answers for every protocol: libraries that check arguments at run time, as beartype, ask it."""
    assert not isinstance("a word", protocol)


READ_WHEN_CALLED = """
import sys, typing

def on_call(frame, what, _):
    function = frame.f_globals.get(frame.f_code.co_name)
    if what == "call" and getattr(function, "__code__", None) is frame.f_code and "fapilog" in frame.f_code.co_filename:
        typing.get_type_hints(function)

sys.setprofile(on_call)
import fapilog.core.sync
"""


@pytest.mark.slow
def test_what_an_import_calls_can_be_checked() -> None:
    """The annotations of functions that are called by an import name what exists by then; typeguard reads them."""
    subprocess.run([sys.executable, "-c", READ_WHEN_CALLED], check=True)
