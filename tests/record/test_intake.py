"""What a caller gives, and the event that is stored for it."""

import email.message
import gc
import os
import sqlite3
import sys
import threading
from collections import ChainMap, OrderedDict, UserDict, UserString, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, ComplianceLevel
from fapilog.record import chain
from fapilog.record.errordetails import described
from fapilog.record.events import handed_out
from fapilog.record.freezing import Walk
from fapilog.record.intake import LEAST_RECORD, recorded
from fapilog.record.texts import cut, escaped, original
from fapilog.record.values import LEAST_TEXT, given_text, tags, text
from tests.doubles.measured_calls import measured_calls

_decode = msgspec.json.Decoder(AuditEvent).decode


def made(
    *,
    max_text: int = 8_192,
    max_message: int = 65_536,
    max_record: int = 262_144,
    **others: Any,
) -> AuditEvent:
    """Return the event for what is given, which is read back from its record as it is."""
    known = {
        "event_type": AuditEventType.DATA_ACCESS,
        "message": others.pop("message", "m"),
        "hostname": others.pop("hostname", None),
        "compliance_level": ComplianceLevel.NONE,
    }
    draft, body = recorded(known, others, limits=(max_text, max_message, max_record))
    event = handed_out(draft)
    record = msgspec.json.encode(event)
    assert body == chain.body(event)
    assert len(body) <= max_record - 512
    assert _decode(record) == event
    assert msgspec.json.encode(_decode(record)) == record
    return event


def kept(value: object) -> Any:
    """Return what is stored for *value*."""
    return made(metadata={"value": value}).metadata["value"]


# -- too long


def test_a_long_text_is_cut() -> None:
    """A long header ends with its length and hash, and the event says that it was cut."""
    agent = "A" * (1 << 20)
    event = made(user_agent=agent, user_id="mallory")
    assert event.user_agent is not None
    assert len(event.user_agent) == 8_192
    assert event.user_agent.startswith("AAAA")
    assert event.user_agent.endswith(f"A… (1048576 characters, sha256 {sha256(agent.encode()).hexdigest()})")
    assert event.truncated == ("user_agent",)
    assert event.user_id == "mallory"


def test_all_that_is_cut_is_named() -> None:
    """Every member with a part that is too long is named, those of the metadata by the name at the top."""
    long = "é" * 70_000
    event = made(
        message=long,
        error=ValueError(long),
        regulatory_tags=["a", long],
        metadata={"deep": [{"er": long}], "short": 1, long: 2},
        max_record=1 << 20,
    )
    names = event.truncated
    assert names[:4] == ("message", "error.message", "regulatory_tags", "metadata.deep")
    assert names[4].startswith("metadata.ééé")
    assert len(event.message) == 65_536
    assert event.regulatory_tags == ("a", cut(long, 8_192))
    assert event.metadata["deep"] == [{"er": cut(long, 65_536)}]
    assert event.metadata[cut(long, 8_192)] == 2


@pytest.mark.parametrize("text", ["short", "long " * 20_000])
def test_what_is_left_out_is_named(text: str) -> None:
    """The inside of what is nested too deeply, and tags beyond a thousand, are named as texts that are cut."""
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"d": deep}
    event = made(metadata={"x": deep, "y": text}, changes={"z": (1, deep)}, regulatory_tags=map(str, range(2_000)))
    assert set(event.truncated) - {"metadata.y"} == {"metadata.x", "changes.z", "regulatory_tags"}


def test_a_value_that_holds_itself_is_whole() -> None:
    """A circle is not followed, and nothing of it is left out."""
    circle: list[Any] = [1]
    circle.append(circle)
    assert made(metadata={"x": circle}).truncated == ()


def test_what_fits_is_whole() -> None:
    """Texts up to their limits are stored as they are, and nothing is named."""
    event = made(message="m" * 65_536, user_agent="u" * 8_192, metadata={"sql": "s" * 65_536, "k" * 8_192: 1})
    assert not event.truncated
    assert (len(event.message), len(event.metadata["sql"])) == (65_536, 65_536)


@pytest.mark.parametrize("each", ["\1", "\U0001f9d1", "\u202e", "\udcff", "\\", "\\udcff"])
@pytest.mark.parametrize(
    "max_record", [LEAST_RECORD, *(pytest.param(size, marks=pytest.mark.torture) for size in (262_144, 1 << 20))]
)
def test_the_whole_record_has_a_limit(each: str, max_record: int) -> None:
    """Whatever the characters are, and however many texts there are, the record fits."""
    names = ("component", "operation", "user_id", "session_id", "request_id", "client_ip", "user_agent", "hostname")
    long = each * 9_000
    others: dict[str, Any] = dict.fromkeys(names, long)
    event = made(
        message=each * 70_000,
        error=ValueError(long),
        regulatory_tags=[long] * 20,
        metadata={each * number: [long] * 5 for number in range(1, 20)},
        max_record=max_record,
        **others,
    )
    assert set(event.truncated) >= {"message", "user_agent", "error.message"}


@pytest.mark.slow
def test_texts_are_cut_before_values_are_left_out() -> None:
    """Where cutting texts is enough, every value is there; where numbers are too many, a message stays whole."""
    texts = made(metadata={f"k{number}": "x" * 60_000 for number in range(20)}).metadata
    assert len(texts) == 20
    assert {len(value) for value in texts.values()} == {8_192}
    numbers = made(message="m" * 60_000, metadata={"ids": [0] * 500_001})
    assert len(numbers.message) == 60_000
    assert numbers.metadata["ids"][-1] == "… (500001 values)"
    assert len(numbers.metadata["ids"]) > 16_000
    assert numbers.truncated == ("metadata.ids",)


@pytest.mark.parametrize(("max_text", "max_message", "max_record"), [(8_192, 256, 65_536), (1 << 20, 1 << 20, 65_536)])
def test_any_limit_may_be_the_lowest(max_text: int, max_message: int, max_record: int) -> None:
    """A message is cut to its own limit where names may be longer, and to the record's where that is shorter."""
    event = made(message="m" * 500_000, max_text=max_text, max_message=max_message, max_record=max_record)
    assert event.truncated == ("message",)
    assert len(event.message) <= max_message


def shared(depth: int, container: type = dict, make: Callable[[Any], Any] | None = None) -> Any:
    """Return containers of two containers each, which are the same one: a tree of twice as many at each level."""
    found: Any = 0
    for _ in range(depth):
        if make is not None:
            found = make(found)
        else:
            found = {"a": found, "b": found} if container is dict else container((found, found))
    return found


@pytest.mark.parametrize(
    "value",
    [
        shared(20),
        pytest.param(shared(60, list), marks=pytest.mark.slow),
        pytest.param(shared(20, tuple), marks=pytest.mark.slow),
        [[] for _ in range(40_000)],
        pytest.param([{} for _ in range(40_000)], marks=pytest.mark.slow),
        pytest.param([set()] * 40_000, marks=pytest.mark.slow),
        [1 << 1000] * 40_000,
        [MappingProxyType({"a": 1})] * 40_000,
        ["x" * 300] * 40_000,
    ],
    ids=["dicts", "lists", "tuples", "no lists", "no dicts", "no sets", "numbers", "proxies", "texts"],
)
def test_no_more_is_read_than_fits(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many values there are, or seem to be, about as many are looked at as a record holds, a few times."""
    read = measured_calls(monkeypatch, Walk, "_value")
    event = made(metadata={"value": value}, max_record=LEAST_RECORD)
    assert len(msgspec.json.encode(event)) > LEAST_RECORD // 2
    assert 0 < len(read) < 3 * LEAST_RECORD // 2
    assert event.truncated[0] == "metadata.value"


@dataclass
class Node:
    """A node of a tree that knows its parent."""

    parent: "Node | None"
    children: list["Node"] = field(default_factory=list)


def test_a_circle_is_named() -> None:
    """Each way back into a circle is a short text, which costs nothing: a `repr` would be that of the whole tree."""
    tree = Node(None)
    tree.children = [Node(tree) for _ in range(3)]
    itself: list[Any] = []
    itself.extend([itself] * 1_000)
    assert kept(tree)["children"] == [{"parent": "<Node, circular>", "children": []}] * 3
    assert kept(itself) == ["<list, circular>"] * 1_000
    assert "<dict, too deep>" in str(kept(shared(65)))


def test_a_long_text_that_values_share_is_made_once() -> None:
    """An object with a long `repr` that stands in a thousand places is asked once."""
    asked = 0

    class Long:
        def __repr__(self) -> str:
            nonlocal asked
            asked += 1
            return "x" * 100_000

    assert len(set(kept([Long()] * 1_000)[:100])) == 1
    assert asked == 1


@pytest.mark.parametrize("container", [dict, list, tuple])
def test_no_text_of_a_container_fills_the_memory(container: type) -> None:
    """A container whose text would have as many characters as there are atoms is named in its place."""
    event = made(message=shared(60, container), user_id=[1, {"a": (2,)}])
    assert event.message == f"<{container.__name__}, too large>"
    assert event.user_id == "[1, {'a': (2,)}]"


class Rows(list[Any]):
    """A list of the application's own, shown as any other."""


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda value: deque([value, value], 9), "deque"),
        (lambda value: defaultdict(int, a=value, b=value), "defaultdict"),
        (lambda value: OrderedDict(a=value, b=value), "OrderedDict"),
        (lambda value: Rows([value, value]), "Rows"),
        (lambda value: SimpleNamespace(a=value, b=value), "SimpleNamespace"),
        (lambda value: {"a": value, "b": value}.values(), "dict_values"),
        (lambda value: MappingProxyType({"a": value, "b": value}), "dict"),
        (lambda value: ValueError([value], [value]), "tuple"),
    ],
    ids=["deque", "defaultdict", "OrderedDict", "subclass", "namespace", "view", "proxy", "error"],
)
def test_no_text_that_the_interpreter_makes_fills_the_memory(make: Callable[[Any], Any], word: str) -> None:
    """The same holds for all containers whose text the interpreter makes without a step of Python, in every member."""
    value, named = shared(60, make=make), f"<{word}, too large>"
    event = made(message=value, user_id=value, regulatory_tags=[value], error=RuntimeError(value))
    assert (event.message, event.user_id, event.regulatory_tags) == (named, named, (named,))
    assert event.error is not None
    assert event.error.message == named
    assert given_text(make(make(1))) == str(make(make(1)))


def test_the_text_of_a_value_in_the_metadata_does_not_fill_the_memory() -> None:
    """A value whose text is stored in its place is named where that would have no end."""
    assert kept(shared(60, make=lambda value: deque([value, value]))) == "<deque, too large>"


@pytest.mark.torture
def test_many_names_are_counted() -> None:
    """Half a million names end with their number; a name of the caller's own is not overwritten."""
    event = made(metadata={"…": "mine", "rows": {str(number): number for number in range(500_001)}})
    assert event.metadata["rows"]["…"] == "(500001 values)"
    assert event.metadata["…"] == "mine"
    top = made(metadata={str(number): number for number in range(700_000)})
    assert top.metadata["…"] == "(700000 values)"


def test_the_text_of_an_error_is_stored_once() -> None:
    """A long text of an error is whole in its message, and in short in the traceback."""
    long = "long text " * 5_000
    try:
        raise ValueError(long)
    except ValueError as caught:
        error = made(error=caught).error
    assert error is not None
    assert error.message == long
    assert len(error.traceback) < 2_000
    assert "… (50000 characters" in error.traceback


# -- any value


def _raise(self: object, *_: object) -> Any:
    raise RuntimeError("the session is gone")


DUNDERS = [
    *("repr", "str", "bytes", "format", "bool", "len", "iter", "next", "getitem", "contains", "call", "int", "index"),
    *("float", "eq", "ne", "lt", "getattr", "getattribute", "dir", "reversed", "enter", "length_hint", "fspath"),
]
METHODS = ["keys", "items", "values", "get", "getlist", "getall", "get_all", "copy", "_asdict"]


def hostile(base: type, dunders: list[str], methods: list[str]) -> type:
    """Return a subclass of *base* that raises in *dunders* and *methods*."""
    body: dict[str, Any] = {f"__{name}__": _raise for name in dunders} | dict.fromkeys(methods, _raise)
    if "eq" in dunders:
        body["__hash__"] = lambda self: 7
    return type("Row", (base,), body)


BASES: list[Any] = [object, dict, list, tuple, set, frozenset, str, int, float, bytes, OrderedDict, UserDict, Exception]


@pytest.mark.parametrize("base", BASES)
def test_what_raises_has_a_text_in_its_place(base: type) -> None:
    """A value that raises whatever is asked of it is stored as what can be read of it, or with a text in its place."""
    row = hostile(base, DUNDERS, METHODS)()
    stored = kept(row)
    assert stored in ({}, [], "", 0, 0.0) or stored == "<Row, unreadable: RuntimeError>"
    event = made(metadata={"rows": [row, 1]}, message=row, user_id=row, error=row, regulatory_tags=row)
    assert event.metadata["rows"][1] == 1


def filled(given: tuple[type, list[object]]) -> Any:
    kind, values = given
    full = kind()
    list.extend(full, values)
    return full


def recursive(values: list[Any]) -> list[Any]:
    values.append({"again": values})
    return values


def classes(bases: list[Any]) -> st.SearchStrategy[type]:
    dunders = st.lists(st.sampled_from([name for name in DUNDERS if name != "getattribute"]), max_size=9)
    return st.builds(hostile, st.sampled_from(bases), dunders, st.lists(st.sampled_from(METHODS), max_size=5))


KEYS = st.text(max_size=3) | st.integers() | st.binary(max_size=2) | st.uuids() | st.none() | st.booleans()
ANY_TEXT = st.text(st.characters(codec=None), max_size=300)
LEAVES = (
    st.none()
    | st.floats()
    | st.integers()
    | ANY_TEXT
    | st.binary()
    | st.datetimes()
    | classes(BASES).map(lambda kind: kind())
)
GRAPHS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEYS, inner)
        | st.tuples(classes([list]), st.lists(inner)).map(filled)
        | st.dictionaries(KEYS, inner).map(MappingProxyType)
        | st.dictionaries(KEYS, inner).map(lambda each: ChainMap(each, {"self": each}))
        | st.lists(inner).map(recursive)
    ),
    max_leaves=10,
)


@settings(max_examples=max(30, settings().max_examples), suppress_health_check=[HealthCheck.too_slow])
@given(GRAPHS, GRAPHS, LEAVES)
def test_no_graph_of_objects_is_refused(value: Any, other: Any, leaf: Any) -> None:
    """Whatever classes raise wherever, and whatever holds what, the event is made, and is read back as it is."""
    made(
        message=leaf,
        user_id=other,
        metadata={"value": value, "other": [other, value]},
        error=leaf,
        regulatory_tags=other,
        max_text=LEAST_TEXT,
        max_message=LEAST_TEXT,
        max_record=LEAST_RECORD,
    )


def test_exits_pass() -> None:
    """Ctrl-C and an exit while a value is read are raised."""

    class Exits:
        def __init__(self, error: type[BaseException]) -> None:
            self.error = error

        def __repr__(self) -> str:
            raise self.error

    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            kept(Exits(error))


def test_a_liar_is_not_believed() -> None:
    """An object that says that it is a text, or whose repr is none, is stored as what it is."""

    class Liar:
        __class__ = str  # type: ignore[assignment]

        def __repr__(self) -> Any:
            return 5

    assert kept(Liar()).endswith("Liar, unreadable: TypeError>")


def test_what_never_ends_is_cut() -> None:
    """An endless mapping, endless tags, and a mapping that is new at each depth end."""

    class Nested(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return Nested()

        def __iter__(self) -> Iterator[str]:
            yield "deeper"

        def __len__(self) -> int:
            return 1

    assert tags(iter(int, 1))[-1] == "… (more than 1000 tags)"
    assert "deeper" in kept(Nested())
    assert made(metadata={"value": Endless()}).metadata["value"]["…"] == "(more than 52427 values)"


class Endless(Mapping[str, Any]):
    """An endless mapping of numbers."""

    def __getitem__(self, key: str) -> Any:
        return 0

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            yield str(number)
            number += 1

    def __len__(self) -> int:
        return 1


def test_what_is_consumed_by_reading_is_left_alone() -> None:
    """A generator and a cursor are named, and still have all that they had."""
    generator = iter([1, 2])
    cursor = sqlite3.connect(":memory:").execute("SELECT 1")
    stored = kept({"generator": generator, "cursor": cursor})
    assert "list_iterator" in stored["generator"]
    assert "Cursor" in stored["cursor"]
    assert (list(generator), cursor.fetchall()) == ([1, 2], [(1,)])
    cursor.connection.close()


def test_an_odd_syntax_error_is_recorded() -> None:
    """An error that `traceback` can't print is stored with its frames, its text, and why there is no more."""
    try:
        raise SyntaxError("from a template engine", ("page.html", 3, 4, 5))  # type: ignore[arg-type]
    except SyntaxError as caught:
        error = made(error=caught).error
    assert error is not None
    assert error.type == "SyntaxError"
    assert error.traceback.endswith("(page.html, line 3)\n<SyntaxError, unreadable: AttributeError>\n")
    assert "test_an_odd_syntax_error_is_recorded" in error.traceback


def test_a_dict_that_another_thread_changes_is_stored() -> None:
    """A dict is stored as it was at one moment, whatever is done to it meanwhile."""
    shared = {str(number): number for number in range(300)}
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            shared[f"k{number % 500}"] = number
            shared.pop(f"k{(number - 200) % 500}", None)
            number += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            assert kept(shared)["299"] == 299
            assert kept(OrderedDict(a=shared))["a"]["0"] == 0
            assert kept(MappingProxyType(shared))["299"] == 299
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


# -- nothing is lost


@dataclass
class Point:
    """A dataclass with a field that raises."""

    x: int
    headers: Any


class Order(msgspec.Struct, rename="camel"):
    """A struct."""

    order_id: int
    rows: Any


class Pair(NamedTuple):
    """A named tuple."""

    a: int
    b: int


class Colour(Enum):
    """An enum with values of several kinds."""

    RED = "red"
    BOTH = ("red", 1)


def message() -> email.message.Message:
    """Return a message with two headers of one name."""
    found = email.message.Message()
    found["role"] = "user"
    found["role"] = "admin"
    return found


def row() -> sqlite3.Row:
    """Return a row of a database."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    found: sqlite3.Row = connection.execute("SELECT 7 AS id, 'x' AS name").fetchone()
    connection.close()
    return found


ROLES = {"role": ["user", "admin"]}


class Form(dict[str, Any]):
    """A dict of lists whose `items` gives one value of each."""

    def items(self) -> Any:
        return [(key, values[-1]) for key, values in super().items()]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (message(), ROLES),
        (Form(ROLES), ROLES),
        (MappingProxyType({"a": ROLES}), {"a": ROLES}),
        (ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
        (UserDict(a=1), {"a": 1}),
        (row(), {"id": 7, "name": "x"}),
        (Point(1, message()), {"x": 1, "headers": ROLES}),
        (Order(1, {2}), {"orderId": 1, "rows": [2]}),
        (Pair(1, 2), [1, 2]),
        (Colour.BOTH, ["red", 1]),
        (
            {b"\0\xff": 1, UUID(int=1): 2, Colour.RED: 3, 1 << 4000: 4, True: 5},
            {"AP8=": 1, str(UUID(int=1)): 2, "red": 3, hex(1 << 4000): 4, "True": 5},
        ),
        ({1: "a", "1": "b", "1_": "c"}, {"1": "a", "1_": "b", "1__": "c"}),
    ],
)
def test_nothing_is_lost(value: object, stored: object) -> None:
    """A mapping of any kind is an object with all values of each name, and an object with fields one of its fields."""
    gc.collect()
    assert kept(value) == stored


@pytest.mark.parametrize("given", ["<a>text</a>", '<a x="1">text<b/></a>'])
def test_an_element_of_xml_is_no_mapping(given: str) -> None:
    """An object that has names for a part of it alone is stored as any other one, and not as that part."""
    element = ET.fromstring(given)  # noqa: S314
    assert kept(element) == repr(element)
    assert made(metadata=element).metadata == {"metadata": repr(element)}


@pytest.mark.parametrize(
    ("given", "stored"), [([1, {"a": 2}], [1, {"a": 2}]), ({3}, [3]), (Point(1, ()), {"x": 1, "headers": []}), (7, 7)]
)
def test_metadata_that_is_no_mapping_is_a_value(given: Any, stored: object) -> None:
    """Metadata that is no mapping is stored under its own name, as any value is."""
    assert made(metadata=given).metadata == {"metadata": stored}
    assert made(metadata=given, extra=1).metadata == {"metadata": stored, "extra": 1}


def test_a_field_that_raises_is_one_field() -> None:
    """Of an object with a field that can't be read, the others are stored."""

    @dataclass
    class Detached:
        number: int
        rows: Any

        def __getattribute__(self, name: str) -> Any:
            if name == "rows":
                raise LookupError
            return object.__getattribute__(self, name)

    assert kept(Detached(1, 2)) == {"number": 1, "rows": f"<{Detached.__qualname__}, unreadable: LookupError>"}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("PCI-10.2.1", ("PCI-10.2.1",)),
        (["a", 10], ("a", "10")),
        ((each for each in "ab"), ("a", "b")),
        (b"pci", ("b'pci'",)),
        (5, ("5",)),
        (AuditLogLevel.INFO, ("info",)),
        (UserString("pci"), ("pci",)),
        (bytearray(b"pci"), ("bytearray(b'pci')",)),
    ],
)
def test_tags(given: object, stored: tuple[str, ...]) -> None:
    """A single text is a single tag, and what is no iterable is one too."""
    assert made(regulatory_tags=given).regulatory_tags == stored
    assert tags(given) == stored or not isinstance(given, str | bytes | int)


# -- surrogates

surrogates = st.text(st.sampled_from("\\ud8f0cafe\udcff\ud800é\U0001f9d1 DCFF")) | st.text(st.characters(codec=None))


@given(surrogates)
@example("\udcff")
@example("\\udcff")
@example("\\\udcff")
@example("\\\\udcff")
@example("\\" * 100_000)
def test_lone_surrogates_are_stored_reversibly(text: str) -> None:
    """From what is stored, what was given is made again; so no two texts become one."""
    stored = escaped(text)
    stored.encode()
    assert original(stored) == text


@given(surrogates)
def test_text_without_surrogates_stays(given: str) -> None:
    """A text without a lone surrogate, and without what looks like the escape of one, is stored as it is."""
    plain = given.encode("utf-8", "replace").decode().replace("\\ud", "")
    assert escaped(plain) == plain or "\\ud" in plain
    assert text(plain) == plain


def test_two_users_stay_two() -> None:
    """A user whose name has the byte FF, and one whose name has the six characters of its escape, are two."""
    broken, written = os.fsdecode(b"a\xff"), "a\\udcff"
    events = [made(user_id=name, metadata={name: [name]}) for name in (broken, written)]
    assert events[0].user_id == "a\\udcff"
    assert events[1].user_id == "a\\\\udcff"
    assert [original(event.user_id or "") for event in events] == [broken, written]
    assert events[0].metadata == {"a\\udcff": ["a\\udcff"]}
    assert events[1].metadata == {"a\\\\udcff": ["a\\\\udcff"]}


def test_the_class_of_an_error_may_be_odd() -> None:
    """A class without a usable name or module is described all the same."""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError("no")

    class Odd(Exception, metaclass=Meta):
        pass

    assert described(Odd("x")).message == "x"
