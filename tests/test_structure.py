"""The rules that hold for all modules: who imports whom, what is public, and what is said about it."""

import ast
import gc
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import fapilog
from tests.doubles.modules import MODULES, PUBLIC, ROOT

HERE = Path(__file__).parent

# A line for each floor: what is on it, and which of the folders below each of these may import.
FLOORS = {
    ("_extras",): set[str](),
    ("record",): set[str](),
    # Of the floor below, tasks know the errors and no event.
    ("tasks",): {"record"},
    # Some storages need the library of an extra, and say how to get it.
    ("storage",): {"record", "tasks", "_extras"},
    # Two modules: what was mistyped, in the context and in a call; and the context, which integrations fill and the
    # trail asks.
    ("_typos",): {"record", "tasks"},
    ("context",): {"record", "tasks", "_typos"},
    ("core",): {"record", "tasks", "storage", "context", "_typos"},
    ("providers", "delivery", "observers", "proof", "testing"): {"record", "tasks", "storage", "core", "_extras"},
    ("integrations",): {"record", "tasks", "storage", "context", "core", "_extras"},
}
# A folder at the top, which others import by name.
TOP = {"config"}
FOLDERS = {folder for floor in FLOORS for folder in floor}
MAY_IMPORT = {folder: {folder, *below} for floor, below in FLOORS.items() for folder in floor} | {
    # Of the fourth floor it only knows where the names are, until one is asked for.
    "__init__": {"config", *FOLDERS},
    "config": {"fapilog", "config", *FOLDERS},
    "__main__": {"cli"},
    "cli": {"fapilog", "cli", *TOP, *FOLDERS},
}
# A trail can be made of a configuration, which knows all that a trail may be made of; imported when it is asked for.
MAY_IMPORT["core"].add("config")
# A Django site has its configuration among its settings, and the fields of all its changes are checked like those of a
# call.
MAY_IMPORT["integrations"] |= {"config", "_typos"}
# Inside of the storages: what all of them share, and those that are in databases.
SHARED = {"_anchor", "_holes", "_regular", "_room", "_verdicts", "closing", "copying", "protocol"}
IN_DATABASES = {"_rows", "_sqlitetrail", "postgres", "sqlite", "sqlitefile"}
# What `import fapilog` loads may import these libraries, and the lowest floor fewer still.
LIBRARIES = {
    "record": {"msgspec"},
    "tasks": {"anyio"},
    "storage": {"anyio", "msgspec"},
    "_typos": set(),
    "context": set(),
    "core": {"anyio", "blinker", "msgspec"},
}
# What it does not load may import the library of its extra.
OF_AN_EXTRA = {
    "storage/_s3errors.py": {"botocore"},
    "storage/postgres": {"psycopg"},
    "storage/s3.py": {"boto3", "botocore"},
}

# `import fapilog` pays for none of these.
EXTRAS = {
    "apprise",
    "arq",
    "boto3",
    "botocore",
    "celery",
    "django",
    "dramatiq",
    "httpx2",
    "opentelemetry",
    "prometheus_client",
    "psycopg",
    "rich",
    "sqlite3",
    "structlog",
    "typer",
}

# Nor for these, until a trail needs them: files, rules, questions, an alert, a record.
ON_FIRST_USE = {
    *("difflib", "gzip", "hashlib", "logging", "pathlib", "queue", "signal", "traceback", "urllib.parse", "zlib"),
    *(f"fapilog.core.{name}" for name in ("_catchup", "_incidentfiles", "_counts", "_reading", "_retaining", "_rules")),
    *(f"fapilog.core.{name}" for name in ("audited", "rules", "sync")),
    *(f"fapilog.storage.{name}" for name in ("archive", "files", "replication", "retention")),
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.fixture(scope="module", autouse=True)
def _trees() -> Iterator[None]:
    """Keep what is parsed as long as these tests run, away from the garbage collector, which would walk it all."""
    gc.disable()
    yield
    parsed.cache_clear()
    gc.enable()


def area(path: Path) -> str:
    """Return the folder, or the module at the top, that *path* belongs to."""
    # By `manage.py audit` a Django site has the command line: it stands on that floor.
    if "management" in path.parts:
        return "cli"
    return path.parts[0].removesuffix(".py")


def found(paths: Iterable[Path], wrong: Callable[[Path], Collection[str]]) -> dict[str, Collection[str]]:
    """Return what is *wrong* in each file of *paths* that is not as it should be."""
    return {str(path): names for path in paths if (names := wrong(path))}


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module, and of every name taken from one, that *path* imports."""
    package = ("fapilog", *path.parent.parts)
    for node in ast.walk(parsed(ROOT / path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_areas(path: Path) -> Iterator[str]:
    """Yield which of our areas *path* imports from; "fapilog" stands for the names at the top."""
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "fapilog":
            first = rest.partition(".")[0]
            yield first if first in FOLDERS | TOP | {"cli"} else "fapilog"


def test_imports_point_inwards() -> None:
    """A folder imports only from itself and from the floors below; the command line may import all."""
    assert not found(MODULES, lambda path: set(imported_areas(path)) - MAY_IMPORT[area(path)])


def test_storages_in_databases_know_none_in_files() -> None:
    """What all storages share imports none of them, and those in databases import of the files only their directory."""

    def others(path: Path) -> list[str]:
        is_shared = path.parts[1].removesuffix(".py") in SHARED
        known = SHARED if is_shared else {*SHARED, *IN_DATABASES, "_files.access", "_files.directory", "_files.locking"}
        names = [
            name.removeprefix("fapilog.storage.") for name in imported(path) if name.startswith("fapilog.storage.")
        ]
        return [name for name in names if not any(f"{name}.".startswith(f"{each}.") for each in known)]

    storages = [path for path in MODULES if path.parts[0] == "storage"]
    assert not found([path for path in storages if path.parts[1].removesuffix(".py") in SHARED | IN_DATABASES], others)


def test_the_core_needs_three_libraries() -> None:
    """The core and the floors below import blinker, anyio, msgspec and the standard library, nothing else."""

    def others(path: Path) -> set[str]:
        libraries = {name.partition(".")[0] for name in imported(path)} - sys.stdlib_module_names - {"fapilog"}
        extra = OF_AN_EXTRA.get(path.parent.as_posix(), set()) | OF_AN_EXTRA.get(path.as_posix(), set())
        return libraries - LIBRARIES[area(path)] - extra

    assert not found([path for path in MODULES if area(path) in LIBRARIES], others)


def test_importing_loads_no_extra() -> None:
    """A fresh `import fapilog` loads no library of an extra."""
    script = "import sys, fapilog; print(*{name.partition('.')[0] for name in sys.modules})"
    # Coverage starts in children by its environment, and loads sqlite3 itself.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    child = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True)
    assert not EXTRAS & set(child.stdout.split())


def test_importing_loads_no_part_that_few_processes_use() -> None:
    """A fresh `from fapilog import AuditTrail` loads nothing that waits for its first use."""
    # In a process that runs no event loop: asyncio itself loads some of these.
    script = "import sys, anyio, anyio.to_thread; before = {*sys.modules}; from fapilog import AuditTrail; "
    child = subprocess.run(
        [sys.executable, "-c", script + "print(*sys.modules.keys() - before)"],
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert not ON_FIRST_USE & set(child.stdout.split())


def is_not_for_others(value: ast.expr) -> bool:
    """Tell whether *value* is a type variable, or stands in for a type that is imported later."""
    kinds = {"TypeVar", "ParamSpec", "TypeVarTuple", "imported_later"}
    return isinstance(value, ast.Call) and ast.unparse(value.func) in kinds


def bound(body: Iterable[ast.AST]) -> Iterator[tuple[str, bool]]:
    """Yield each name that *body* binds, and whether it is only imported."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, False
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((alias.asname or alias.name.partition(".")[0], True) for alias in names)
            case ast.Assign(targets=targets, value=value) if not is_not_for_others(value):
                written = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
                yield from ((name.id, False) for name in written if isinstance(name.ctx, ast.Store))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, False
            case ast.If() | ast.Try() | ast.ExceptHandler() | ast.With():
                yield from bound(ast.iter_child_nodes(node))
            case _:
                pass


def exported(module: ast.Module) -> list[str]:
    """Return what `__all__` lists; nothing where there is none."""
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
            case _:
                pass
    return []


def test_all_lists_what_is_public() -> None:
    """`__all__` lists every public name that a module defines, and beyond these only names that it imports."""

    def wrong(path: Path) -> list[str]:
        module = parsed(ROOT / path)
        names = dict(bound(module.body))
        own = {name for name, is_imported in names.items() if not is_imported and not name.startswith("_")}
        listed = exported(module)
        twice = [name for name, count in Counter(listed).items() if count > 1]
        return [*(own - set(listed)), *(set(listed) - names.keys()), *twice]

    assert not found(PUBLIC, wrong)


def test_the_front_page_is_sorted_and_whole() -> None:
    """`fapilog.__all__` is sorted, and each of its names is there."""
    assert list(fapilog.__all__) == sorted(fapilog.__all__)
    assert not [name for name in fapilog.__all__ if not hasattr(fapilog, name)]


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(body: Iterable[ast.AST], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Yield the classes and functions of *body* and the methods of its classes, each with its dotted name."""
    for node in body:
        if isinstance(node, Definition):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
            yield from definitions(ast.iter_child_nodes(node), prefix)


def is_variant(node: Definition) -> bool:
    """Tell whether *node* is an overload or a setter, which its main form speaks for."""
    return any(
        ast.unparse(decorator).endswith(("overload", ".setter", ".deleter")) for decorator in node.decorator_list
    )


def test_everything_public_is_described() -> None:
    """Every public module, class, function and method has a docstring."""

    def undescribed(path: Path) -> list[str]:
        module = parsed(ROOT / path)
        public = [(name, node) for name, node in definitions(module.body) if not re.search(r"(^|\.)_", name)]
        missing = [name for name, node in public if not is_variant(node) and not ast.get_docstring(node)]
        return missing if ast.get_docstring(module) else ["the module", *missing]

    assert not found(PUBLIC, undescribed)


def is_one_sentence(text: str) -> bool:
    return re.match(r"[^a-z\s]", text) is not None and text.endswith(".") and not re.search(r"[.!?]\s+[A-Z]|\n\n", text)


def test_tests_say_one_sentence() -> None:
    """The docstring of every test is one sentence."""

    def others(path: Path) -> list[str]:
        # More than the package, and asked for once: it is not kept.
        body = ast.parse(path.read_text(encoding="utf-8")).body
        tests = [(name, node) for name, node in definitions(body) if node.name.startswith("test_")]
        return [name for name, node in tests if not is_one_sentence(ast.get_docstring(node) or "")]

    assert not found(HERE.rglob("test_*.py"), others)


def test_tests_import_no_tests() -> None:
    """What several tests share stands in a module of its own, and not in a test."""

    def tests(path: Path) -> list[str]:
        return re.findall(r"^\s*from\s+((?:\S*\.)?test_\S*)\s+import", path.read_text(encoding="utf-8"), re.MULTILINE)

    assert not found(HERE.rglob("*.py"), tests)
