"""
From plain values to the arguments of our constructors, by the annotations that these have.

A constructor that gets another option, or another type, is configured by it from then on: nothing here names an option.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import unquote, urlsplit

import fapilog

from ..core.alerting import AlertDispatcher, NoopAlertDispatcher
from ..delivery.route import Condition, when
from ..record.kinds import member
from ..record.options import did_you_mean
from ..record.values import kind_of
from ._hints import (
    DISPATCHER,
    STORAGE,
    Accepted,
    Hint,
    accepted,
    arms,
    expected,
    inside_many,
    is_enum,
    is_plain,
    is_routes,
    is_secret,
    is_storage,
    meant,
    origin,
)

__all__ = ["DESTINATIONS", "STORAGES", "Reader", "Reference", "class_of"]

DESTINATIONS: Final = {
    "alertmanager": "AlertmanagerDispatcher",
    "apprise": "AppriseDispatcher",
    "console": "ConsoleDispatcher",
    "email": "EmailDispatcher",
    "noop": "NoopAlertDispatcher",
    "opsgenie": "OpsgenieDispatcher",
    "pagerduty": "PagerDutyDispatcher",
    "slack": "SlackDispatcher",
    "webhook": "WebhookDispatcher",
}
"""The types of dispatchers that send alerts away, and their names in `fapilog`."""

_DISPATCHERS: Final = {
    **DESTINATIONS,
    "digest": "Digest",
    "fallback": "Fallback",
    "fanout": "FanOut",
    "outbox": "Outbox",
    "postgres_deposit": "PostgresDeposit",
    "postgres_outbox": "PostgresOutbox",
    "ratelimit": "RateLimit",
    "retry": "Retrying",
    "route": "Route",
}

STORAGES: Final = {"postgres": "PostgresStorage", "sqlite": "SQLiteStorage"}
"""The types of storages, beside the files that are the default, and their names in `fapilog`."""

_CLASSES: Final = {**_DISPATCHERS, **STORAGES}

# Stands for a value that is wrong; the error is noted.
_NOTHING: Final = object()
_LONGEST_SECRET: Final = 65_536


class Reference:
    """
    Returns a secret that is kept elsewhere, as it is there now.

    Args:
        kind: "env" for a variable of the environment, "file" for a file.
        name: The name of the variable, or the path of the file.
        part: The index of the secret among several with space between them; None is the whole text.
        at_commas: Whether commas stand between them too.
    """

    def __init__(self, kind: str, name: str, *, part: int | None = None, at_commas: bool = False) -> None:
        self._kind = kind
        self._name = name
        self._part = part
        self._between = r"[\s,]+" if at_commas else r"\s+"

    def __call__(self) -> str:
        """Return the secret; raise KeyError, IndexError, OSError or ValueError where it is not there."""
        if self._kind == "env":
            text = os.environ[self._name]
        else:
            path = Path(self._name)
            if path.exists() and not path.is_file():
                # A pipe without a writer would block the event loop of the service.
                raise OSError(errno.EINVAL, "expected a regular file")
            with path.open(encoding="utf-8-sig") as file:  # editors of Windows put a mark first
                text = file.read(_LONGEST_SECRET)
        return text if self._part is None else [each for each in re.split(self._between, text) if each][self._part]

    def __repr__(self) -> str:
        return f"<secret from {self._kind}:{self._name}>"

    def trouble(self) -> str | None:
        """Return why there is no secret, in words without it; None if there is one."""
        try:
            return None if self().strip() else f"{self._kind}:{self._name}, which is empty"
        except KeyError:
            return f"env:{self._name}, which is not set"
        except OSError as error:
            return f"file:{self._name}: {error.strerror}"
        except (IndexError, ValueError):
            return f"{self._kind}:{self._name}, which can't be read as text"


def class_of(kind: str) -> Callable[..., Any]:
    """Return the class that a type names; raise ImportError where the library of its extra is missing."""
    found: Callable[..., Any] = getattr(fapilog, _CLASSES[kind])
    return found


class Reader:
    """
    Reads one configuration, and notes all its errors.

    Args:
        named: Dispatchers by the names that other dispatchers use.
        where: The place of *named*, in words.
        joined: Returns the words for the place of a key: called with the place around it, and the key.
        reference: The words for a reference to a secret.

    Attributes:
        named: As given, the names as text.
        problems: The errors: the place, the expected value, and the value that came. No secret is in them.
        used: The names of the dispatchers that were asked for.
        storage_of_trail: The storage for every dispatcher that needs one and has no other; None for none.
    """

    def __init__(
        self,
        named: Mapping[str, Any],
        where: str,
        joined: Callable[[str, str], str],
        *,
        reference: str = 'a reference to a secret, "env:NAME" or "file:/run/secrets/NAME", and not the secret itself',
    ) -> None:
        # A key in YAML may be a number.
        self.named: Mapping[str, Any] = {str(name): each for name, each in named.items()}
        self._where = where
        self._joined = joined
        self._reference = reference
        self._made: dict[str, AlertDispatcher] = {}
        self._making: list[str] = []
        self.problems: list[str] = []
        self.used: set[str] = set()
        self.storage_of_trail: Any = None

    def wrong(self, where: str, wanted: str, got: str) -> Any:
        """Note an error."""
        self.problems.append(f"{where}: expected {wanted}; got {got}")
        return _NOTHING

    def options(self, possible: Mapping[str, Accepted], given: Mapping[str, Any], where: str) -> dict[str, Any] | None:
        """Return the arguments for the keys *given*; None if a required one is not there."""
        for key in given:
            if key not in possible:
                place = reduce(self._joined, keys := meant(str(key), possible), where)
                hint = f"did you mean {place}?" if keys else f"there are {', '.join(possible)}"
                self.problems.append(f"{self._joined(where, str(key))}: there is no such option; {hint}")
        found: dict[str, Any] = {}
        is_whole = True
        for key, option in possible.items():
            place, needs_secret = self._joined(where, key), is_secret(option.hint) and not option.public
            if key in given and (given[key] is not None or option.required or needs_secret):
                value = self._value(option.hint, given[key], place, public=option.public)
            elif option.required and is_storage(option.hint) and self.storage_of_trail is not None:
                value = self.storage_of_trail
            elif option.required:
                value = self.wrong(place, self._reference if needs_secret else expected(option.hint), "nothing")
            else:
                continue
            if value is not _NOTHING:
                found[option.name] = value
            elif option.required or needs_secret:
                # Without it the constructor would only say the same in other words.
                is_whole = False
        return found if is_whole else None

    def make(self, make: Callable[..., Any], given: Any, where: str) -> Any:
        """Return the result of *make* for the table *given*; `_NOTHING`, and the errors are noted, if it can't."""
        if not isinstance(given, Mapping):
            return self.wrong(where, "a table", _got(given))
        options = self.options(accepted(make), given, where)
        return _NOTHING if options is None else self.called(make, options, where)

    def dispatcher(self, given: Any, where: str) -> AlertDispatcher:
        """Return the dispatcher that a table describes or a name refers to; a no-op, after an error was noted."""
        if isinstance(given, str):
            return self._by_name(given, where)
        if not isinstance(given, Mapping):
            if hasattr(given, "send_alert"):
                return cast(AlertDispatcher, given)
            self.wrong(where, DISPATCHER, _got(given))
            return NoopAlertDispatcher()
        made = self._of_type(_DISPATCHERS, given, where)
        return NoopAlertDispatcher() if made is _NOTHING else made

    def storage(self, given: Any, where: str) -> Any:
        """Return the storage that a table describes; `_NOTHING`, and the errors are noted, if it describes none."""
        if isinstance(given, Mapping):
            return self._of_type(STORAGES, given, where)
        return given if is_storage(type(given)) else self.wrong(where, STORAGE, _got(given))

    def read_storage(self, config: dict[str, Any], where: str) -> None:
        """Replace the storage of the trail in *config*, if it has one, by the one that it describes: that is first."""
        if config.get("storage") is not None:
            self.storage_of_trail = self.storage(config.pop("storage"), where)
            if self.storage_of_trail is not _NOTHING:
                config["storage"] = self.storage_of_trail

    def _of_type(self, possible: Collection[str], given: Mapping[str, Any], where: str) -> Any:
        kind = given.get("type")
        place = self._joined(where, "type")
        if not isinstance(kind, str) or kind not in possible:
            shown = repr(kind) + did_you_mean(kind, possible) if isinstance(kind, str) else _got(kind)
            return self.wrong(place, f"one of {', '.join(possible)}", "nothing" if kind is None else shown)
        try:
            make = class_of(kind)
        except ImportError as missing:
            self.problems.append(f"{place}: {missing}")
            return _NOTHING
        return self.make(make, {key: value for key, value in given.items() if key != "type"}, where)

    def _by_name(self, name: str, where: str) -> AlertDispatcher:
        self.used.add(name)
        if name in self._making:
            self.wrong(where, "a dispatcher", "one that is around it")
        elif name not in self.named:
            meant = f'; did you mean {{"type": "{name}"}}?' if name in _DISPATCHERS else did_you_mean(name, self.named)
            self.wrong(where, DISPATCHER, _got(name) + meant)
        else:
            if name not in self._made:
                self._making.append(name)
                self._made[name] = self.dispatcher(self.named[name], self._joined(self._where, name))
                self._making.pop()
            return self._made[name]
        return NoopAlertDispatcher()

    def _routes(self, given: Any, where: str) -> Any:
        if not isinstance(given, list | tuple):
            return self.wrong(where, 'a list of tables, each with conditions and a "dispatcher"', _got(given))
        routes: dict[Condition, AlertDispatcher] = {}
        for number, each in enumerate(given):
            place = f"{where}[{number}]"
            if not isinstance(each, Mapping):
                self.wrong(place, 'a table with conditions and a "dispatcher"', _got(each))
                continue
            condition = self.make(when, {key: value for key, value in each.items() if key != "dispatcher"}, place)
            dispatcher = self.dispatcher(each.get("dispatcher"), self._joined(place, "dispatcher"))
            if condition is not _NOTHING:
                routes[condition] = dispatcher
        return routes

    def _value(self, hint: Hint, given: Any, where: str, *, public: bool = False) -> Any:
        """Return *given* as *hint* asks; `_NOTHING`, and the error is noted, if it is not that."""
        inner = inside_many(hint)
        if inner is not None and (isinstance(given, list | tuple) or len(arms(hint)) == 1):
            # One is one, and not its letters.
            items = given if isinstance(given, list | tuple) else [given]
            listed = [self._value(inner, each, f"{where}[{number}]") for number, each in enumerate(items)]
            return _NOTHING if _NOTHING in listed else listed
        if is_secret(hint):
            return self._open(given, where) if public and isinstance(given, str) else self._secret(given, where)
        arm = next(arm for arm in arms(hint) if is_plain(arm))
        if arm is AlertDispatcher:
            found: Any = self.dispatcher(given, where)
        elif is_storage(arm):
            found = self.storage(given, where)
        elif is_dataclass(arm):
            found = given if isinstance(given, cast(type, arm)) else self.make(cast(type, arm), given, where)
        elif is_routes(arm):
            found = self._routes(given, where)
        elif origin(arm) is Mapping:
            found = self._mapping(get_args(arm)[-1], given, where)
        else:
            found = self._scalar(arm, given, where)
        return found

    def _mapping(self, hint: Hint, given: Any, where: str) -> Any:
        if not isinstance(given, Mapping):
            return self.wrong(where, "a table", _got(given))
        found = {str(key): self._value(hint, value, self._joined(where, str(key))) for key, value in given.items()}
        return _NOTHING if _NOTHING in found.values() else found

    def _scalar(self, hint: Hint, given: Any, where: str) -> Any:
        if is_enum(hint):
            try:
                return member(hint, given, where)
            except ValueError as error:
                self.problems.append(str(error))
                return _NOTHING
        if origin(hint) is Literal:
            possible = get_args(hint)
            shown = repr(given) + did_you_mean(given, possible) if isinstance(given, str) else _got(given)
            return given if given in possible else self.wrong(where, expected(hint), shown)
        if isinstance(given, str) and _is_reference(given):
            # Taken as it is, it would be the name of a directory, or of a channel that nobody reads.
            return self.wrong(where, expected(hint), "a reference, which only a secret can be")
        takes = (int, float) if hint is float else (str, os.PathLike) if hint is Path else hint
        if not isinstance(given, takes) or (isinstance(given, bool) and hint is not bool):
            return self.wrong(where, expected(hint), _got(given))
        return given

    def _open(self, given: str, where: str) -> Any:
        if _is_reference(given):
            return self._secret(given, where)
        return self.wrong(where, self._reference, "a text with a password") if _has_password(given) else given

    def _secret(self, given: Any, where: str) -> Any:
        if isinstance(given, Reference):
            reference = given
        elif isinstance(given, str) and _is_reference(given):
            kind, _, name = given.partition(":")
            reference = Reference(kind, name)
        else:
            # Never the value, which may be the secret.
            return self.wrong(where, self._reference, "a text that is none" if isinstance(given, str) else _got(given))
        words = reference.trouble()
        return reference if words is None else self.wrong(where, "a secret", words)

    def called(
        self, make: Callable[..., Any], options: Mapping[str, Any], where: str, names: Mapping[str, str] | None = None
    ) -> Any:
        """Return the result of *make*, which is called with the secrets as text first: so it checks these too."""
        try:
            shown = {name: _revealed(value) for name, value in options.items()}
            if shown != options:
                make(**shown)
            return make(**options)
        except (ImportError, TypeError, ValueError) as error:
            # A message of ours begins with the option, or with several, and has no secret.
            given, _, words = str(error).partition(": ")
            possible, places = accepted(make, names), list[str]()
            for name in given.split(", "):
                first, bracket, rest = name.partition("[")
                key = (names or {}).get(first, first)
                if key not in possible:
                    places, words = [where], str(error)
                    break
                places.append(self._joined(where, key) + bracket + rest)
            self.problems.append(f"{', '.join(places)}: {words}")
            if isinstance(options.get(given), int | float) and not possible[(names or {}).get(given, given)].required:
                # A number out of range. The constructor has named the first: without it, it names the next.
                self.called(make, {name: value for name, value in options.items() if name != given}, where, names)
            return _NOTHING


def _is_reference(given: str) -> bool:
    return re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", given) is not None


def _has_password(given: str) -> bool:
    """Return whether an address, or a DSN in libpq's syntax, has a password in it."""
    try:
        is_there = urlsplit(given).password is not None
    except ValueError:
        is_there = False
    return is_there or re.search(r"password\s*=", unquote(given)) is not None


def _revealed(value: Any) -> Any:
    if isinstance(value, Reference):
        return value()
    if isinstance(value, list):
        return [_revealed(each) for each in value]
    return {key: _revealed(each) for key, each in value.items()} if type(value) is dict else value


def _got(given: Any) -> str:
    """Return the words for the value that came: for a text only "text", since it may be a secret in a wrong place."""
    if given is None:
        return "nothing"
    if isinstance(given, bool | int | float):
        return repr(given).lower()
    if isinstance(given, str):
        return "text"
    if isinstance(given, Mapping):
        return "a table"
    return "a list" if isinstance(given, list | tuple) else kind_of(given)
