"""The guard of all URLs: laws of addresses, and real servers that try to get round it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from stub_server import serve
from toolweave.errors import ToolError
from toolweave.tools.net import Bounds, Policy, RefusedError, is_public, send
from toolweave.tools.web_browser import WebBrowser

PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "240.0.0.1", "192.0.0.8", "::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_judged_alike_in_every_ipv6_dress(number: int) -> None:
    plain = is_public(IPv4Address(number))
    for dress in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert is_public(IPv6Address(dress)) == plain


SPELLINGS = ["http://127.1/", "http://2130706433/", "http://0x7f.1/", "http://[::1]/", "http://[::ffff:7f00:1]/"]


@pytest.mark.parametrize("url", [*SPELLINGS, "http://localhost/", "http://user@127.0.0.1/", "http://169.254.169.254/x"])
def test_every_spelling_of_this_machine_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLWEAVE_ALLOW_HOSTS", raising=False)
    with pytest.raises((RefusedError, httpx.HTTPError)):
        send("GET", url, bounds=Bounds(2))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1:1/"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises((RefusedError, httpx.UnsupportedProtocol)):
        send("GET", url, bounds=Bounds(2))


def test_the_operator_can_allow_a_place() -> None:
    for allow in ("127.0.0.1", "127.0.0.1:80", "127.0.0.0/8", "inner", "inner:80"):
        policy = Policy((allow,))
        assert policy._allows("inner", IPv4Address("127.0.0.1"), 80)
        assert not policy._allows("other", IPv4Address("10.0.0.1"), 81)


def _resolver(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[str]]) -> list[str]:
    asked: list[str] = []
    real = socket.getaddrinfo

    def fake(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name in answers:
            asked.append(name)
            found = answers[name]
            address = found.pop(0) if len(found) > 1 else found[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return asked


def test_a_name_is_resolved_once_so_rebinding_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastAPI()
    app.get("/")(lambda: {"secret": 1})
    with serve(app) as url:
        port = url.rpartition(":")[2]
        # Allowed at first, forbidden at a second look: only one look may be taken, and it decides.
        asked = _resolver(monkeypatch, {"rebind.test": ["127.0.0.1", "10.0.0.1"]})
        answer = send("GET", f"http://rebind.test:{port}/", policy=Policy(("127.0.0.1",)))
        assert (answer.status, asked) == (200, ["rebind.test"])
        with pytest.raises(RefusedError, match=r"rebind.test is at 10\.0\.0\.1"):
            send("GET", f"http://rebind.test:{port}/", policy=Policy(("127.0.0.1",)))


def test_a_redirect_inwards_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = FastAPI(), FastAPI()
    reached: list[str] = []
    inner.get("/secret")(lambda: reached.append("secret"))
    with serve(inner) as inner_url:
        outer.get("/")(lambda: RedirectResponse(f"{inner_url}/secret"))
        with serve(outer) as outer_url:
            monkeypatch.setenv("TOOLWEAVE_ALLOW_HOSTS", outer_url.removeprefix("http://"))
            with pytest.raises(RefusedError, match="not a public address"):
                WebBrowser().call(f'{{"urls": "{outer_url}/"}}')
    assert reached == []


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Any:
        while True:
            yield b"x" * 65536

    app = FastAPI()
    app.get("/")(lambda: StreamingResponse(endless()))
    with serve(app) as url, pytest.raises(ToolError, match="larger than 100,000 bytes"):
        send("GET", url, bounds=Bounds(10, content=100_000), policy=Policy(("127.0.0.1",)))


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    app = FastAPI()
    app.get("/")(lambda: Response("direct"))
    with serve(app) as url:
        assert send("GET", url, policy=Policy(("127.0.0.1",))).content == b"direct"
