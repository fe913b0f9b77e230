"""What is taken from the headers of a request, and what a client can make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog.integrations._headers import address, client_address, header_name, request_id
from fapilog.integrations.asgi import AuditMiddleware

PEER = "10.0.0.2"


def found(*values: str, proxies: int = 1, header: str = "x-forwarded-for", peer: str | None = PEER) -> str | None:
    """Return the client of a request with these values of the header."""
    return client_address(peer, list(values), proxies=proxies, header=header)


@pytest.mark.parametrize(
    ("values", "proxies", "expected"),
    [
        ([], 1, PEER),
        (["192.0.2.7"], 0, PEER),
        (["192.0.2.7"], 1, "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7"], 1, "192.0.2.7"),
        (["203.0.113.9", "192.0.2.7"], 1, "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7,10.0.0.1"], 2, "192.0.2.7"),
        (["192.0.2.7"], 2, PEER),
        ([""], 1, PEER),
        (["192.0.2.7, nonsense"], 1, PEER),
        (["192.0.2.7, "], 1, PEER),
        (["203.0.113.9, [2001:db8::1]:4711"], 1, "2001:db8::1"),
        (["203.0.113.9, unknown"], 1, "unknown"),
    ],
)
def test_addresses_are_counted_from_the_right(values: list[str], proxies: int, expected: str) -> None:
    """The client is the entry that the outermost of our proxies has added, and the peer where there is none."""
    assert found(*values, proxies=proxies) == expected


@pytest.mark.parametrize(
    ("values", "proxies", "expected"),
    [
        (["for=192.0.2.7"], 1, "192.0.2.7"),
        (["for=203.0.113.9, For=192.0.2.7;proto=https;by=203.0.113.43"], 1, "192.0.2.7"),
        (['proto=http; for="[2001:DB8::1]:4711"'], 1, "2001:db8::1"),
        (['for="192.0.2.7:47011"', "for=10.0.0.1"], 2, "192.0.2.7"),
        ([r'for="192.0.\2.7"'], 1, "192.0.2.7"),
        (["for=_gazonk"], 1, "_gazonk"),
        (["for=unknown"], 1, "unknown"),
        (["by=203.0.113.43"], 1, PEER),
        (["for=203.0.113.9", "192.0.2.7"], 1, PEER),
        (["for=192.0.2.7"], 2, PEER),
        # Quotes that a client opens, and the proxy's entry does not close.
        (['for="203.0.113.9', "for=192.0.2.7"], 1, "192.0.2.7"),
        # A Host header with a comma, which the proxy has put into quotes.
        (['for=192.0.2.7;host="a,for=203.0.113.9"'], 1, PEER),
        (['for=192.0.2.7, for=10.0.0.1;host="a,for=203.0.113.9,b"'], 2, PEER),
    ],
)
def test_the_forwarded_header_is_counted_from_the_right(values: list[str], proxies: int, expected: str) -> None:
    """The same holds for elements of RFC 7239, and where one of ours is not well-formed, the client is the peer."""
    assert found(*values, proxies=proxies, header="forwarded") == expected


SENT = st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")), max_size=3)


@given(SENT, st.booleans(), st.integers(1, 3))
def test_a_client_cannot_forge_its_address(sent: list[str], appends: bool, proxies: int) -> None:  # noqa: FBT001
    """Whatever a client sends, its address is the one that the outermost proxy saw, in both headers."""
    for header, prefix in (("x-forwarded-for", ""), ("forwarded", "for=")):
        ours = [f"{prefix}192.0.2.7", *(f"{prefix}10.0.0.{number}" for number in range(1, proxies))]
        # A proxy adds to the last line of the header, or adds a line.
        values = [", ".join([*sent, *ours])] if appends else [*sent, *ours]
        assert found(*values, proxies=proxies, header=header) == "192.0.2.7"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        ("unknown", "unknown"),
        ("_a.b-c", "_a.b-c"),
        ("_" + "a" * 64, None),
        ("192.0.2.07", None),
        ("localhost", None),
        ("", None),
        ("[", None),
    ],
)
def test_an_address_is_written_one_way(node: str, expected: str | None) -> None:
    """An address has no port and one spelling, and text that is none is refused."""
    assert address(node) == expected


def test_a_peer_may_have_no_address() -> None:
    """Without proxies, a peer behind a Unix socket has no address, and a name that a server gives is kept."""
    assert found(proxies=0, peer=None) is None
    assert found("192.0.2.7", peer=None) == "192.0.2.7"
    assert found(proxies=0, peer="testclient") == "testclient"
    assert found(proxies=0, peer="::ffff:192.0.2.7") == "192.0.2.7"


@pytest.mark.parametrize("given_id", ["a", "7f3a-1", "req:1/2+3=4@5._", "a" * 128])
def test_a_request_id_is_taken(given_id: str) -> None:
    """A short request id of safe characters is taken."""
    assert request_id(given_id) == given_id


@pytest.mark.parametrize("given_id", [None, "", "a" * 129, "a b", "a\n", "a\u00e4", "\u0661", "<a>", "a,b", '"'])
def test_a_request_id_is_made(given_id: str | None) -> None:
    """Without a request id, and for one that is too long or has other characters, there is a new one each time."""
    made = {request_id(given_id) for _ in range(3)}
    assert len(made) == 3
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in made)


@pytest.mark.parametrize("node", ["fe80::1%eth0", "[fe80::1%\x1b[31m]:443", "fe80::1%" + "a" * 5000])
def test_an_address_has_no_zone(node: str) -> None:
    """What follows the address of a network card is no part of the address, and may be any text."""
    assert address(node) == "fe80::1"


async def nothing(*_: object) -> None:
    """An application that answers nothing."""


@pytest.mark.parametrize("name", ["", "x-id\r\nset-cookie", "x id", "x-\u2603", "x:id"])
def test_a_header_has_a_name(name: str) -> None:
    """What can be no name of a header is refused at once, and not in each response."""
    with pytest.raises(ValueError, match=r"^request_id_header: expected the name of a header; got '"):
        header_name("request_id_header", name)
    with pytest.raises(ValueError, match=r"^proxy_header: "):
        AuditMiddleware(nothing, proxy_header=name)
    assert header_name("x", "X-Request-ID") == "X-Request-ID"
