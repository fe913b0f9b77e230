"""The two values that the headers of a request can be trusted for: the client's address, and the request's id."""

from __future__ import annotations

import os
import re
import socket
from ipaddress import IPv6Address, ip_address
from typing import Final

from ..record.options import require_text

__all__ = [
    "RECORDED",
    "REQUEST_ID",
    "ROUTING_ARGS",
    "address",
    "client_address",
    "environ_name",
    "header_name",
    "request_id",
]

ROUTING_ARGS: Final = "wsgiorg.routing_args"
"""
The parameters of a path, by position and by name, in the environment of a request:
https://wsgi.readthedocs.io/en/latest/specifications/routing_args.html.
"""

REQUEST_ID: Final = "fapilog.request_id"
"""Under which a request itself keeps its id, for views and for middleware inside of this one."""
RECORDED: Final = "fapilog.recorded"
"""Under which a request keeps which middleware stores its event, by the id of the trail: of several, the innermost."""

_SAFE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

# An element of the header Forwarded: pairs of a token and a value, which is a token or quoted.
# https://www.rfc-editor.org/rfc/rfc7239#section-4
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR: Final = rf'({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*+")'
_PAIRS: Final = re.compile(_PAIR)
_ELEMENT: Final = re.compile(rf"\s*{_PAIR}(?:\s*;\s*{_PAIR})*\s*")
# https://www.rfc-editor.org/rfc/rfc7239#section-6
_HIDDEN: Final = re.compile(r"unknown|_[A-Za-z0-9._-]{1,63}")


def header_name(name: str, value: object) -> str:
    """
    Return *value* if it is the name of a header; with any other, a server would break every response.

    Raises:
        TypeError: It is no text; the message begins with *name*, that of the option.
        ValueError: It has characters that no such name has.
    """
    found = require_text(name, value)
    if not re.fullmatch(_WORD, found):
        raise ValueError(f"{name}: expected the name of a header; got {found[:100]!r}")
    return found


def environ_name(header: str) -> str:
    """Return the name that WSGI's environment has for a header: https://peps.python.org/pep-3333/#environ-variables."""
    return f"HTTP_{header.upper().replace('-', '_')}"


def request_id(given: str | None) -> str:
    """Return *given* if it is short and has safe characters alone, so that it may be logged and sent; or a new id."""
    if given is not None and _SAFE_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


def client_address(peer: str | None, forwarded: list[str], *, proxies: int, header: str) -> str | None:
    """
    Return the address of the client, as the outermost of our own proxies saw it.

    Every proxy appends the address that it was asked from. So only the last *proxies* entries are from our proxies. All
    before them came with the request, and may be forged. If there are fewer entries, or the entry that counts is none,
    the request did not come through our proxies, and the peer is the client.

    Args:
        peer: The address at the other end of the connection; None if it has none, as with a Unix socket.
        forwarded: All values of the header in which the proxies keep the addresses, in order.
        proxies: How many proxies there are.
        header: The name of that header, in lower case.
    """
    if proxies and forwarded:
        # One more entry at the left, if there is one, has all that is not ours.
        entries = ",".join(forwarded).rsplit(",", proxies)[-proxies:]
        if len(entries) == proxies:
            found = _node_of(entries) if header == "forwarded" else address(entries[0].strip())
            if found is not None:
                return found
    return peer and (address(peer) or peer)


def _node_of(entries: list[str]) -> str | None:
    # All of our elements must be well-formed. Otherwise a comma was in quotes, where a client may have put it by way of
    # its Host header, and the entries were counted wrongly.
    if not all(_ELEMENT.fullmatch(entry) for entry in entries):
        return None
    for name, value in _PAIRS.findall(entries[0]):
        if name.lower() == "for":
            return address(re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value)
    return None


def address(node: str) -> str | None:
    """Return the IP address in *node*, without a port, or a name that hides one; None if it has neither."""
    # Nearly all are IPv4, and this is six times faster than `ipaddress`. glibc, too, refuses octets that begin with a
    # zero.
    try:
        socket.inet_pton(socket.AF_INET, node)
    except (OSError, ValueError):
        host = node
    else:
        return node
    if node.startswith("["):
        host = node[1:].partition("]")[0]
    elif node.count(":") == 1:
        host = node.partition(":")[0]
    try:
        # A zone, which may be any text, names a network card of the machine that wrote the address, and means nothing
        # here.
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return node if _HIDDEN.fullmatch(node) else None
    # A socket for both kinds shows the address of an IPv4 client as one of IPv6.
    return str((found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found)
