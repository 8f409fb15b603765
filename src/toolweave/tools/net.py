"""The one way out: every URL that a model, a user or a spec can influence is requested through `send`.

The host is resolved once, its addresses are checked, and the connection goes to the very address that was checked,
so that a name which resolves differently a moment later (DNS rebinding) gains nothing. A redirect is a request of
its own and passes the same way. Proxies of the environment are not used: they would resolve the name again.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpx

from toolweave.errors import ToolError

# At INFO httpx logs whole URLs, and some carry a key.
logging.getLogger("httpx").setLevel(logging.WARNING)

ALLOW_VARIABLE = "TOOLWEAVE_ALLOW_HOSTS"
_PORTS = {"http": 80, "https": 443}
_PROTOCOL_ASSIGNMENTS = IPv4Network("192.0.0.0/24")  # older Pythons take parts of it for global
_NAT64 = IPv6Network("64:ff9b::/96")
_Address = IPv4Address | IPv6Address


class RefusedError(ToolError):
    """A URL that may not be requested."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which addresses may be reached. Public ones always; others only when `allow` has them.

    Items of `allow` are a host name, an address, a network (`10.0.0.0/8`), or one of the first two with a port
    (`localhost:8888`). Only the operator sets them, never a spec.
    """

    allow: tuple[str, ...] = ()

    @classmethod
    def from_env(cls) -> Policy:
        """Read TOOLWEAVE_ALLOW_HOSTS, a list with commas."""
        return cls(tuple(item.strip() for item in os.environ.get(ALLOW_VARIABLE, "").split(",") if item.strip()))

    def resolve(self, host: str, port: int) -> str:
        """Return the address to connect to. Raises RefusedError, or OSError for a name that does not resolve.

        One forbidden address among several refuses the host: which of them would be taken is not ours to bet on.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ip_address(str(info[4][0]).partition("%")[0]) for info in found]
        for address in addresses:
            if not is_public(address) and not self._allows(host, address, port):
                hint = f"if it is meant to be reached, the operator can set {ALLOW_VARIABLE}={host}:{port}"
                raise RefusedError(f"{host} is at {address}, which is not a public address", hint)
        return str(addresses[0])

    def _allows(self, host: str, address: _Address, port: int) -> bool:
        names = {host, str(address)}
        names |= {f"{name}:{port}" for name in names}
        return any(item in names or _in_network(address, item) for item in self.allow)


def is_public(address: _Address) -> bool:
    """Tell whether an address belongs to the public internet, also where IPv6 carries an IPv4 address."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    elif address in _PROTOCOL_ASSIGNMENTS:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _in_network(address: _Address, item: str) -> bool:
    try:
        return "/" in item and address in ip_network(item)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: `url` is where the last redirect led, `content` is decoded from its transfer form."""

    url: str
    status: int
    headers: httpx.Headers
    content: bytes
    encoding: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of an answer is waited for: `seconds` in all, `content` bytes, `redirects` followed."""

    seconds: float = 10.0
    content: int = 5_000_000
    redirects: int = 0


def pinned_url(policy: Policy, scheme: str, host: str, port: int | None) -> str:
    """Return the address that a request for `host` may go to. Raises RefusedError or OSError."""
    if scheme not in _PORTS:
        raise RefusedError(f"only http and https URLs are requested, not {scheme or 'one without a scheme'}")
    if not host:
        raise RefusedError("the URL names no host")
    return policy.resolve(host, port or _PORTS[scheme])


class GuardedTransport(httpx.BaseTransport):
    """Connects to the address that `policy` has checked; TLS still verifies the name."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        # A connection kept for another host at the same address would have been verified for that one.
        self._inner = httpx.HTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises RefusedError, or httpx's errors."""
        url = request.url
        try:
            address = pinned_url(self._policy, url.scheme, url.host, url.port)
        except OSError as error:
            raise httpx.ConnectError(f"{url.host} does not resolve", request=request) from error
        pinned = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,  # the Host header is that of the original URL
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )
        return self._inner.handle_request(pinned)

    def close(self) -> None:
        """Close what is open."""
        self._inner.close()


def send(
    method: str,
    url: str,
    *,
    bounds: Bounds = Bounds(),
    policy: Policy | None = None,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> Answer:
    """Send a request and read the answer within `bounds`; `options` are httpx's (params, json, data, files, …).

    Raises RefusedError for an address that `policy` (TOOLWEAVE_ALLOW_HOSTS if None) forbids, ToolError for an answer
    that is too large or too slow, and httpx's errors, whose texts hold the URL.
    """
    deadline = time.monotonic() + bounds.seconds
    with (
        httpx.Client(
            transport=GuardedTransport(policy or Policy.from_env()),
            timeout=bounds.seconds,
            trust_env=False,
            follow_redirects=bounds.redirects > 0,
            max_redirects=max(bounds.redirects, 1),
        ) as client,
        client.stream(method, url, headers=headers, **options) as response,
    ):
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > bounds.content:
                raise ToolError(f"the answer is larger than {bounds.content:,} bytes")
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("too slow", request=response.request)
        encoding = response.charset_encoding or "utf-8"
        return Answer(str(response.url), response.status_code, response.headers, bytes(content), encoding)
