"""
A trail from a configuration: a mapping, a TOML file, or the environment.

    [tool.fapilog]
    path = "/var/lib/clinic/audit"

    [tool.fapilog.policy]
    level = "hipaa"

    [tool.fapilog.dispatcher]
    type = "slack"
    webhook_url = "env:SLACK_WEBHOOK_URL"

`AuditTrail.from_config`, `from_toml` and `from_env` make a trail of it; ``fapilog check-config`` lists its errors, and
sends nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Final

from fapilog import AlertDispatcher, AuditTrail, CompliancePolicy, NoopAlertDispatcher

from ..record.errors import FapilogError
from ..record.options import nearest, require_mapping, require_path
from ..record.privacy import without_frames
from ..record.values import kind_of
from ._hints import KEYS, Accepted, accepted, in_table, inside_many, is_secret, is_text
from ._reader import DESTINATIONS, Reader, Reference, class_of

__all__ = ["ConfigError", "dispatcher_from_env", "options_from_config", "options_from_env", "options_from_toml"]

_PREFIX: Final = "FAPILOG"
# The keys of a trail that have a table: a policy, and storages.
_STORED: Final = frozenset({"replica", "storage"})
_TABLES: Final = ("policy", *sorted(_STORED))
# The value of FAPILOG_OUTBOX that is no path.
_IN_POSTGRES: Final = "postgres"
# A wrapper refuses to be the 33rd around others; hundreds of tables are too many to be read at all.
_TOO_DEEP: Final = "expected at most 32 wrappers inside of each other; got hundreds of tables or lists"
# A comma may be part of such an address.
_COMMAS_STAY: Final = {"apprise"}


class ConfigError(FapilogError, ValueError):
    """
    Raised when a configuration does not describe a trail.

    Its text has one line per error, and no secret.

    Attributes:
        problems: The lines: the place, the expected value, and the value that came.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: tuple[str, ...] = tuple(problems)


@without_frames
def options_from_config(config: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """
    Return the arguments of an `AuditTrail` that *config* describes.

    Args:
        config: As on the page "Configure a trail" of the docs.
        where: The place of *config*, for messages: "tool.fapilog".

    Raises:
        ConfigError: Something is wrong with it; everything is said.
        TypeError: It is no mapping.
    """
    require_mapping("config", config, expected="a mapping")
    try:
        return _options(config, where)
    except RecursionError:
        raise ConfigError([f"{where or 'config'}: {_TOO_DEEP}"]) from None


def _options(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = dict(config)
    named = given.pop("dispatchers", {})
    at_names = _dotted(where, "dispatchers")
    reader = Reader(named if isinstance(named, Mapping) else {}, at_names, _dotted)
    if not isinstance(named, Mapping):
        reader.wrong(at_names, "a table of dispatchers", kind_of(named))
    reader.read_storage(given, _dotted(where, "storage"))
    options = reader.options(accepted(AuditTrail, KEYS), given, where)
    for name in reader.named.keys() - reader.used:
        reader.wrong(_dotted(at_names, name), "something that sends alerts to it", "nothing")
    return _checked(reader, options, where)


@without_frames
def options_from_toml(path: Path | str) -> dict[str, Any]:
    """
    Return the arguments of an `AuditTrail` that the table ``[tool.fapilog]`` of a file describes.

    Raises:
        ConfigError: Something is wrong with the file or the table; everything is said.
        OSError: The file can't be read.
        TypeError: *path* is no path.
        ValueError: *path* is a text that no file can be called.
    """
    file = require_path("path", path)
    content: dict[str, Any] = {}
    problem = None
    try:
        # Editors of Windows begin a file with a mark that TOML does not have.
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        # Raised out here, since the error has the whole text with it.
        problem = str(error)
    except UnicodeDecodeError:
        problem = "expected UTF-8"
    except RecursionError:
        problem = _TOO_DEEP
    if problem is not None:
        raise ConfigError([f"{file}: {problem}"])
    tool = content.get("tool")
    tools: dict[str, Any] = tool if isinstance(tool, dict) else {}
    config = tools.get("fapilog")
    if not isinstance(config, dict):
        tables = {**{name: name for name in content}, **{name: f"tool.{name}" for name in tools if name != "fapilog"}}
        found = nearest("fapilog", tables)
        raise ConfigError([f"tool.fapilog: expected a table; got {'nothing' if found is None else tables[found]}"])
    return options_from_config(config, where="tool.fapilog")


@without_frames
def options_from_env() -> dict[str, Any]:
    """
    Return the arguments of an `AuditTrail` that the environment describes.

    A variable is called ``FAPILOG_``, and then an option of the trail, ``POLICY_`` and an option of the policy, or a
    destination and an option of it, as for ``fapilog send-test``: FAPILOG_PATH, FAPILOG_POLICY_LEVEL,
    FAPILOG_SLACK_WEBHOOK_URL. ``FAPILOG_STORAGE_`` and ``FAPILOG_REPLICA_`` have the type and the options of a storage.
    An alert goes to all destinations that are there. With FAPILOG_OUTBOX, the path of a file, an `Outbox` per
    destination keeps it; with ``postgres``, a `PostgresOutbox` in the storage does.

    Raises:
        ConfigError: Something is wrong with the variables; everything is said.
    """
    reader = _reader_of_env()
    possible = accepted(AuditTrail, KEYS)
    settings = [key for key in possible if key not in {"dispatcher", *_TABLES}]
    found: dict[str, dict[str, str]] = {}
    for name, variable in _named(_PREFIX).items():
        place = next((each for each in (*_TABLES, *DESTINATIONS) if name.startswith(f"{each}_")), "")
        found.setdefault(place, {})[name.removeprefix(f"{place}_") if place else name] = variable
    own, policy = found.pop("", {}), found.pop("policy", {})
    outbox = own.pop("outbox", None)
    for key in sorted(own.keys() - set(settings)):
        words = _variables(key, [*settings, "outbox"], possible)
        reader.problems.append(f"{own.pop(key)}: there is no such variable; {words}")
    config = _table(possible, own)
    if policy:
        config["policy"] = _table(accepted(CompliancePolicy), policy)
    for each in sorted(_STORED.intersection(found)):
        config[each] = _stored(found.pop(each))
    reader.read_storage(config, _with_underscore(_PREFIX, "storage"))
    if outbox is not None and not found:
        reader.wrong(outbox, f"a destination too, one of {', '.join(DESTINATIONS)}", "none, so no alert would be kept")
    dispatchers = [_kept(reader, kind, variables, outbox) for kind, variables in found.items()]
    if dispatchers:
        config["dispatcher"] = (
            dispatchers[0] if len(dispatchers) == 1 else {"type": "fanout", "dispatchers": dispatchers}
        )
    return _checked(reader, reader.options(possible, config, _PREFIX), _PREFIX)


@without_frames
def dispatcher_from_env(kind: str, *, allow_http: bool = False) -> AlertDispatcher:
    """
    Return the dispatcher of one destination, by its variables of the environment, as `options_from_env` reads them.

    Args:
        kind: The destination: "slack". Only its module is imported.
        allow_http: Whether its address may begin with ``http:`` and not be this machine's, if it has one.

    Raises:
        ConfigError: A variable or a library is missing, or a value is wrong; the message names all faults.
    """
    reader = _reader_of_env()
    dispatcher = _destination(reader, kind, _named(_with_underscore(_PREFIX, kind)), allow_http=allow_http)
    if reader.problems:
        raise ConfigError(reader.problems)
    return dispatcher


def _reader_of_env() -> Reader:
    return Reader({}, _PREFIX, _with_underscore, reference="a secret")


def _named(prefix: str) -> dict[str, str]:
    """Return the variables with *prefix* that are not empty, by the rest of their names."""
    names = sorted(name for name in os.environ if name.startswith(f"{prefix}_") and os.environ[name])
    return {name.removeprefix(f"{prefix}_").lower(): name for name in names}


def _variables(key: str, settings: list[str], possible: Mapping[str, Accepted]) -> str:
    """Return the words on which variables there are, instead of one for *key*."""
    near = nearest(key, settings)
    found = in_table(key, possible) if near is None else (near,)
    if found:
        return f"did you mean {reduce(_with_underscore, found, _PREFIX)}?"
    names = ", ".join(_with_underscore(_PREFIX, each) for each in settings)
    return f"there are {names}, and for each of {', '.join([*_TABLES, *DESTINATIONS])} one for each option"


def _destination(
    reader: Reader, kind: str, variables: Mapping[str, str], *, allow_http: bool = False
) -> AlertDispatcher:
    """Return the dispatcher that the *variables*, by their options, describe."""
    where = _with_underscore(_PREFIX, kind)
    try:
        options = accepted(class_of(kind))
    except ImportError as missing:
        reader.problems.append(f"{where}: {missing}")
        return NoopAlertDispatcher()
    table = _table(options, variables, commas=kind not in _COMMAS_STAY)
    if allow_http and "allow_http" in options:
        table["allow_http"] = True
    return reader.dispatcher({"type": kind, **table}, where)


def _kept(reader: Reader, kind: str, variables: Mapping[str, str], outbox: str | None) -> AlertDispatcher:
    """Return the dispatcher that the *variables* describe; in an outbox if its variable is given."""
    dispatcher = _destination(reader, kind, variables)
    if outbox is None:
        return dispatcher
    path = os.environ[outbox]
    if path != _IN_POSTGRES:
        return reader.dispatcher({"type": "outbox", "inner": dispatcher, "path": path, "name": kind}, outbox)
    if reader.storage_of_trail is None:
        reader.wrong(outbox, f"{_PREFIX}_STORAGE_TYPE=postgres too, or the path of a file", "postgres alone")
        return dispatcher
    return reader.dispatcher({"type": "postgres_outbox", "inner": dispatcher, "name": kind}, outbox)


def _stored(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the table of the storage that *variables* describe; what is wrong with it is found when it is read."""
    kind = os.environ[variables["type"]] if "type" in variables else ""
    options: dict[str, Accepted] = {}
    with contextlib.suppress(ImportError, LookupError):
        options = accepted(class_of(kind))
    return _table(options, variables)


def _table(options: Mapping[str, Accepted], variables: Mapping[str, str], *, commas: bool = True) -> dict[str, Any]:
    """Return the values of *variables* by their options, as a file of configuration has them."""
    return {key: _read(options.get(key), variable, commas=commas) for key, variable in variables.items()}


def _read(option: Accepted | None, variable: str, *, commas: bool) -> Any:
    text = os.environ[variable]
    inside = None if option is None else inside_many(option.hint)
    if inside is not None and (is_secret(inside) or is_text(inside)):
        parts = [each for each in re.split(r"[\s,]+" if commas else r"\s+", text) if each]
        references = [Reference("env", variable, part=number, at_commas=commas) for number in range(len(parts))]
        return references if is_secret(inside) else parts
    if option is not None and is_secret(option.hint):
        return Reference("env", variable)
    if option is None or is_text(option.hint):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _checked(reader: Reader, options: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """Return *options* if a trail can be made with them; raise everything that is wrong as a `ConfigError`."""
    if options is not None:
        reader.called(AuditTrail, options, where, KEYS)
    if reader.problems or options is None:
        raise ConfigError(reader.problems)
    return options


def _dotted(where: str, key: str) -> str:
    # A key that has a dot itself is written in quotes, as in TOML.
    word = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
    return f"{where}.{word}" if where else word


def _with_underscore(where: str, key: str) -> str:
    return f"{where}_{key.upper()}"
