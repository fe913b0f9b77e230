"""The names at the top: which are imported when they are asked for, and what is said where a library is missing."""

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import fapilog
from fapilog import _extras

NAMES = fapilog._ON_DEMAND
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def run(script: str) -> str:
    """Return what a fresh Python prints for *script*."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_of_its_module(name: str) -> None:
    """A wrapper or a provider is the same at the top and in its module."""
    module = pytest.importorskip(f"fapilog.{NAMES[name]}", exc_type=ImportError)
    assert getattr(fapilog, name) is getattr(module, name)


def test_type_checkers_are_told_the_same() -> None:
    """The names that are imported for type checkers are those of the table, each from its module, and nothing else."""
    tree = ast.parse(inspect.getsource(fapilog))
    [block] = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.body[0], ast.ImportFrom)]
    told = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert told == NAMES


@pytest.mark.parametrize("folder", ["delivery", "providers"])
def test_every_dispatcher_is_at_the_top(folder: str) -> None:
    """No wrapper and no provider is left out."""
    for path in sorted((Path(fapilog.__file__).parent / folder).glob("[a-z]*")):
        module = pytest.importorskip(f"fapilog.{folder}.{path.stem}", exc_type=ImportError)
        found = [name for name in module.__all__ if hasattr(getattr(module, name), "send_alert")]
        assert found
        assert set(found) <= NAMES.keys()


@pytest.mark.slow
def test_a_look_at_all_names_imports_no_extra() -> None:
    """`dir` lists the names of the core, so that `help`, or freezegun, which reads each of them, loads no provider."""
    script = """
import inspect, sys
sys.modules.update(apprise=None, httpx2=None, boto3=None)
import fapilog
print(*dir(fapilog))
inspect.getmembers(fapilog)
print('fapilog.delivery' in sys.modules or 'fapilog.providers' in sys.modules)
"""
    names, imported = run(script).splitlines()
    assert set(names.split()) >= {*fapilog.__all__, "__version__"}
    assert imported == "False"


@pytest.mark.slow
def test_a_star_imports_no_extra() -> None:
    """A star takes what needs no library of an extra."""
    assert run("from fapilog import *; import sys; print('fapilog.delivery' in sys.modules)") == "False\n"


def test_no_other_name_is_there() -> None:
    """A name that is none is missing as in any other module."""
    with pytest.raises(ImportError, match="cannot import name 'TeamsDispatcher'"):
        from fapilog import TeamsDispatcher  # type: ignore[attr-defined]  # noqa: F401, PLC0415
    assert not hasattr(fapilog, "TeamsDispatcher")


NEEDED = {
    "AlertmanagerDispatcher": ("httpx2", "alertmanager"),
    "AppriseDispatcher": ("apprise", "apprise"),
    "OpsgenieDispatcher": ("httpx2", "opsgenie"),
    "PagerDutyDispatcher": ("httpx2", "pagerduty"),
    "SlackDispatcher": ("httpx2", "slack"),
    "WebhookDispatcher": ("httpx2", "webhook"),
}
WITHOUT_LIBRARIES = """
import sys
sys.modules.update(apprise=None, httpx2=None)
import fapilog
for name in fapilog._ON_DEMAND:
    try:
        exec(f"from fapilog import {name}")
    except ImportError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_missing_extra_is_named() -> None:
    """Without the library of an extra, the import says which extra brings the library, and how to get it."""
    assert run(WITHOUT_LIBRARIES).splitlines() == [
        f"fapilog.{name}: this needs {library}, which comes with: {_extras.install_line(extra)}"
        for name, (library, extra) in NEEDED.items()
    ]


# Of the modules that need the library of an extra: their names, the library, and the extra.
MODULES = {
    "integrations.django": ("django", "django"),
    "integrations.flask": ("flask", "flask"),
    "integrations.sqlalchemy": ("sqlalchemy", "sqlalchemy"),
    "observers.metrics": ("prometheus_client", "metrics"),
    "observers.otel": ("opentelemetry", "otel"),
    "providers.alertmanager": ("httpx2", "alertmanager"),
    "providers.apprise": ("apprise", "apprise"),
    "providers.opsgenie": ("httpx2", "opsgenie"),
    "providers.pagerduty": ("httpx2", "pagerduty"),
    "providers.slack": ("httpx2", "slack"),
    "providers.webhook": ("httpx2", "webhook"),
    "storage.postgres": ("psycopg", "postgres"),
    "storage.s3": ("boto3", "s3"),
}
WITHOUT_LIBRARIES_OF = f"""
import sys
from importlib import import_module
sys.modules.update(dict.fromkeys({[library for library, _ in MODULES.values()]!r}))
import fapilog
for name in {list(MODULES)!r}:
    try:
        import_module(f"fapilog.{{name}}")
    except ModuleNotFoundError as error:
        print(error.name.partition(".")[0], error)
"""


@pytest.mark.slow
def test_a_module_names_its_missing_extra() -> None:
    """Without the library of an extra, the import of a module that needs it says how to get it."""
    lines = run(WITHOUT_LIBRARIES_OF).splitlines()
    for line, (library, extra) in zip(lines, MODULES.values(), strict=True):
        found = rf"{library} this needs {library}[.\w]*, which comes with: {re.escape(_extras.install_line(extra))}"
        assert re.fullmatch(found, line)


@pytest.mark.skipif(not PYPROJECT.exists(), reason="only in a clone")
def test_the_extra_brings_the_library() -> None:
    """Each extra that an error names is there, with the library that was missing."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    needed = {*NEEDED.values(), *MODULES.values()}
    assert not [extra for library, extra in needed if library.replace("_", "-") not in str(extras[extra])]


def test_a_missing_module_of_our_own_is_no_missing_extra() -> None:
    """Where a module of ours is missing, that is what is raised."""
    with pytest.raises(ModuleNotFoundError) as caught, _extras.needs("slack"):
        import_module("fapilog.nowhere")
    assert not isinstance(caught.value, _extras.MissingExtraError)


def test_the_extra_that_is_missing_first_is_named() -> None:
    """A module of one extra that imports a module of another one leaves the words to that."""
    with pytest.raises(_extras.MissingExtraError) as caught, _extras.needs("cli"), _extras.needs("slack"):
        import_module("a_library_that_is_not_here")
    assert str(caught.value).endswith(_extras.install_line("slack"))


class Distribution:
    """A package that is installed, as `importlib.metadata` shows it."""

    def __init__(self, noted: str | None) -> None:
        self.noted = noted

    def read_text(self, _: str) -> str | None:
        """Return what pip has noted."""
        return self.noted


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("noted", "line"),
    [
        ({"url": "file:///a/clone", "dir_info": {}}, "pip install 'fapilog[slack] @ file:///a/clone'"),
        (
            {"url": "https://a.example/f.whl", "archive_info": {}},
            "pip install 'fapilog[slack] @ https://a.example/f.whl'",
        ),
        (
            {"url": "https://a.example/f.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"pip install 'fapilog[slack] @ git+https://a.example/f.git@{COMMIT}'",
        ),
        (None, "pip install '/path/to/the/clone[slack]'"),
        ([], "pip install '/path/to/the/clone[slack]'"),
    ],
)
def test_the_line_says_where_from(monkeypatch: pytest.MonkeyPatch, noted: object, line: str) -> None:
    """The line that installs an extra names the place that the package came from, so that no registry is asked."""
    text = None if noted is None else json.dumps(noted)
    monkeypatch.setattr(_extras, "distribution", lambda _: Distribution(text))
    assert _extras.install_line("slack") == line


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a path that is no installation, and where the note is damaged, the line names a clone."""

    def nowhere(_: str) -> Distribution:
        raise PackageNotFoundError

    for found in (nowhere, lambda _: Distribution("{")):
        monkeypatch.setattr(_extras, "distribution", found)
        assert _extras.install_line("slack") == "pip install '/path/to/the/clone[slack]'"


def test_a_mistyped_name_is_suggested() -> None:
    """At the end of a traceback Python says which name may have been meant, also one that is not imported yet."""
    with pytest.raises(AttributeError) as raised:
        vars(fapilog)["__getattr__"]("SlackDispacher")
    assert (raised.value.name, raised.value.obj) == ("SlackDispacher", fapilog)
    assert set(dir(fapilog)) >= {*NAMES, *fapilog.__all__}


def test_the_version() -> None:
    """The version is that of the package, which hatch reads off this very line."""
    assert fapilog.__version__ == version("fapilog")
    # The pattern of `hatchling.version.core`: an annotation would not match.
    found = re.search(r"""(?im)^(__version__|VERSION) *= *(['"])v?(?P<version>.+?)\2""", inspect.getsource(fapilog))
    assert found is not None
    assert found["version"] == fapilog.__version__
