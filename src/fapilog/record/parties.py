"""The parties of an action: `Actor` and `Target`."""

from __future__ import annotations

import re
from typing import Final, Self, TypeVar, cast

from msgspec.structs import asdict, astuple, force_setattr

from .containers import named, read_mapping
from .privacy import Discreet
from .values import given_text, text

__all__ = ["Actor", "Target", "actor_parts", "encodable", "target_parts"]

# The type in "patient/42"; the path of a file and the address of a page have none.
_TYPE_AND_ID: Final = r"([A-Za-z][\w.-]*+)/(?=.)"
# Far more members than a mapping has in which somebody looks for an actor or a target.
_MAX_MEMBERS: Final = 1000


class Actor(Discreet, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """
    The user, service or job that acted. Every value becomes text. Its `repr` shows the type alone.

    Attributes:
        id: The user, the service, or the job.
        type: "user", "service" or "system"; None if it was not given.
        on_behalf_of: The user that a service serves, or that an administrator impersonates.
    """

    _shown = ("type",)

    id: str | None = None
    type: str | None = None
    on_behalf_of: str | None = None

    def __post_init__(self) -> None:
        """Make the given values texts."""
        _make_texts(self)

    @classmethod
    def of(cls, given: object) -> Self:
        """Return *given*: an actor, a mapping of its members, or an id."""
        # Not by `isinstance`, which asks an object for its `__class__`.
        return cast("Self", given) if issubclass(type(given), cls) else cls(**actor_parts(given)[0])


class Target(Discreet, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """
    The object of an action. Every value becomes text. Its `repr` shows the type alone, its `str` type and id.

    Attributes:
        type: The kind of thing: "patient", "invoice", "role".
        id: Its id among things of that kind.
        name: Its name for a reader.
    """

    _shown = ("type",)

    type: str | None = None
    id: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Make the given values texts."""
        _make_texts(self)

    def __str__(self) -> str:
        """Return the target as `of` takes it: "patient/42"."""
        return "/".join(filter(None, [self.type, self.id])) or self.name or ""

    @classmethod
    def of(cls, given: object) -> Self:
        """Return *given*: a target, a mapping of its members, "TYPE/ID", or any other text, which is an id."""
        return cast("Self", given) if issubclass(type(given), cls) else cls(**target_parts(given)[0])


def _make_texts(party: Actor | Target) -> None:
    # A lone surrogate stays until it is recorded or asked for, so that it can be distinguished from the characters of
    # its escape.
    for name in party.__struct_fields__:
        if (value := getattr(party, name)) is not None:
            force_setattr(party, name, given_text(value))


Party = TypeVar("Party", Actor, Target)


def encodable(party: Party) -> Party:
    """Return *party* with texts that UTF-8 can carry."""
    if "".join(filter(None, astuple(party))).isascii():
        return party
    return type(party)(**{name: text(value) for name, value in asdict(party).items() if value is not None})


def actor_parts(given: object) -> tuple[dict[str, str], bool]:
    """Return the members of the actor that *given* describes, as texts, and whether nothing is left of it."""
    return _parts(Actor, given) or ({"id": given_text(given)}, True)


def target_parts(given: object) -> tuple[dict[str, str], bool]:
    """Return the members of the target that *given* describes, as texts, and whether nothing is left of it."""
    if (parts := _parts(Target, given)) is not None:
        return parts
    whole = given_text(given)
    found = re.match(_TYPE_AND_ID, whole, re.ASCII)
    return ({"id": whole} if found is None else {"type": found[1], "id": whole[found.end() :]}), True


def _parts(kind: type[Actor | Target], given: object) -> tuple[dict[str, str], bool] | None:
    names = kind.__struct_fields__
    if issubclass(type(given), kind):
        parts = {name: value for name in names if (value := getattr(given, name)) is not None}
        # A subclass may have more.
        return parts, type(given) is kind
    found = read_mapping(given, _MAX_MEMBERS)
    if found is None:
        return None
    pairs, size = found
    mapping = named(pairs)
    parts = {name: given_text(mapping[name]) for name in names if mapping.get(name) is not None}
    return parts, len(pairs) == size and mapping.keys() <= set(names)
