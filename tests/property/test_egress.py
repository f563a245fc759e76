"""Where tools' connections may go, and that arguments stay where a template puts them."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ToolError
from app.tools.addresses import Addresses, CheckedBackend, is_public
from app.tools.connections import Connections, ToolRequest
from app.tools.http_tool import HttpCall, HttpTool

INSIDE = [
    "127.0.0.1", "127.255.1.2", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.1.2.3", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "2002:0a00:0001::1", "fec0::1", "::127.0.0.1",
]  # fmt: skip
OUTSIDE = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", INSIDE)
def test_no_special_address_is_reached_undeclared(address):
    assert not Addresses().permits("api.example.com", address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_public_addresses_are_reached(address):
    assert Addresses().permits("api.example.com", address)


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_means_the_same_in_all_its_ipv6_disguises(number):
    plain = IPv4Address(number)
    disguises = [
        IPv6Address(int(IPv6Address("::ffff:0:0")) | number),
        IPv6Address(int(IPv6Address("64:ff9b::")) | number),
        IPv6Address(int(IPv6Address("2002::")) | number << 80),
    ]
    for disguise in disguises:
        assert is_public(disguise) == is_public(plain)


def test_what_is_declared_is_reached_and_nothing_beside_it():
    addresses = Addresses(["tickets.internal", "10.2.0.0/16", "fd00::/8"])
    assert addresses.permits("tickets.internal", "192.168.7.7")
    assert addresses.permits("Tickets.Internal.", "192.168.7.7")
    assert not addresses.permits("evil.tickets.internal", "192.168.7.7")
    assert addresses.permits("x.example", "10.2.3.4")
    assert addresses.permits("x.example", "::ffff:10.2.3.4")
    assert not addresses.permits("x.example", "10.3.3.4")
    assert addresses.permits("x.example", "fd00::5")
    addresses.declare("127.0.0.1")
    assert addresses.permits("127.0.0.1", "127.0.0.1")
    assert not addresses.permits("127.0.0.1", "127.0.0.2")
    assert not addresses.permits("x", "169.254.169.254")
    addresses.declare("localhost")
    assert addresses.permits("localhost", "::1")
    assert not addresses.permits("localhost", "10.9.9.9")
    addresses.declare("wiki.example.com")  # a name may lead anywhere: it declares nothing
    assert not addresses.permits("wiki.example.com", "127.0.0.5")


class Dialled:
    """A network backend that remembers where it was sent."""

    def __init__(self) -> None:
        self.to: list[str] = []

    async def connect_tcp(self, host, port):
        self.to.append(host)
        return port

    async def sleep(self, _):
        raise AssertionError("nothing waits here")


@pytest.mark.anyio
async def test_a_name_is_resolved_once_and_the_judged_address_is_dialled():
    """A name that answers differently the second time gains nothing by it."""
    answers = [["8.8.8.8"], ["127.0.0.1"]]
    asked: list[str] = []

    async def resolve(host: str, _: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    inner = Dialled()
    backend = CheckedBackend(inner, Addresses(resolve=resolve))
    assert await backend.connect_tcp("rebind.example", 80) == 80
    assert inner.to == ["8.8.8.8"]
    with pytest.raises(ToolError) as caught:
        await backend.connect_tcp("rebind.example", 80)
    assert caught.value.code == "tool_egress"
    assert inner.to == ["8.8.8.8"]
    assert asked == ["rebind.example"] * 2


@pytest.mark.anyio
async def test_of_mixed_addresses_only_the_permitted_ones_are_dialled():
    async def resolve(_: str, __: int) -> list[str]:
        return ["127.0.0.1", "8.8.8.8", "10.0.0.1"]

    inner = Dialled()
    await CheckedBackend(inner, Addresses(resolve=resolve)).connect_tcp("mixed.example", 443)
    assert inner.to == ["8.8.8.8"]
    with pytest.raises(ToolError):
        await CheckedBackend(inner, Addresses(resolve=resolve)).connect_unix_socket("/run/x")


ANY = st.text(max_size=40) | st.integers() | st.booleans() | st.floats(allow_nan=False)
NASTY = st.sampled_from(
    ["../../admin", "%2e%2e%2f", "a/b", "?x=1", "#f", "@evil.example", "a&b=c", "\\..\\", "//evil.example",
     "\r\nhost: evil", "{id}", "{{id}}", "http://evil.example/", ";a=b", "\x00", "%", "ä/ö",
     '","admin":true,"x":"']
)  # fmt: skip


def request_of(arguments: dict, **call: object) -> ToolRequest:
    defaults = {"method": "POST", "url": "http://h.example/t/{id}/x?q={id}&k=v", "headers": {}}
    tool = HttpTool(HttpCall(**{**defaults, **call}), Connections(Addresses()))
    return tool._request(arguments)


@given(ANY | NASTY)
def test_an_argument_stays_one_segment_of_the_path_and_one_value_of_the_query(value):
    try:
        request = request_of({"id": value})
    except ToolError:
        return  # refused: as good
    assert request.target.startswith(b"/t/")
    assert not set(request.target) & set(b"\r\n\0 #")
    url = urlsplit(request.target.decode())
    assert (url.scheme, url.netloc, url.fragment) == ("", "", "")
    segments = url.path.split("/")
    text = {True: "true", False: "false"}.get(value, str(value)) if value is not None else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
    assert len(segments) == 4
    assert (segments[1], segments[3]) == ("t", "x")
    assert unquote(segments[2]) == text
    assert parse_qsl(url.query, keep_blank_values=True) == [("q", text), ("k", "v")]


@given(ANY | NASTY)
def test_an_argument_stays_in_its_header(value):
    try:
        request = request_of({"id": value}, url="http://h.example/", headers={"x-id": "u={id}"})
    except ToolError:
        return
    raw = dict(request.headers)
    assert len(raw) == len(request.headers)
    assert set(raw) == {b"accept", b"accept-encoding", b"user-agent", b"x-id", b"content-type"}
    assert raw[b"x-id"].startswith(b"u=")
    assert not set(raw[b"x-id"]) & set(b"\r\n\0")


@given(ANY | NASTY)
def test_an_argument_stays_in_its_place_in_the_body(value):
    body = {"n": "{id}", "text": "id is {id}", "fixed": {"admin": False}, "list": ["{id}"]}
    request = request_of({"id": value}, url="http://h.example/", body=body)
    sent = json.loads(request.body)
    assert set(sent) == {"n", "text", "fixed", "list"}
    assert sent["fixed"] == {"admin": False}
    assert sent["n"] == sent["list"][0] == msgspec.json.decode(msgspec.json.encode(value))
    assert isinstance(sent["text"], str)
    assert len(sent["list"]) == 1


@given(st.sampled_from(["http://{h}/", "http://a.{h}.example/", "{s}://h/", "http://u:{p}@h/"]))
def test_no_argument_ever_chooses_the_host(url):
    with pytest.raises(ToolError):
        HttpTool(HttpCall("GET", url, {}), Connections(Addresses()))


def test_the_list_of_special_addresses_is_not_empty_words():
    for address in INSIDE + OUTSIDE:
        ip_address(address.partition("%")[0])


@pytest.mark.parametrize(
    ("template", "sent"),
    [
        ("http://h/{id}", b"/a"),
        ("http://h", b"/"),
        ("http://h?q={id}", b"/?q=a"),
        ("http://h/x#part", b"/x"),
        ("http://h/\u00fc/{id} b", b"/%C3%BC/a%20b"),
        ("http://h/a/../b/{id}", b"/b/a"),
        ("http://h/%41/{id}", b"/%41/a"),
    ],
)
def test_the_operators_own_words_are_encoded_where_they_must_be(template, sent):
    assert request_of({"id": "a"}, method="GET", url=template).target == sent


@pytest.mark.parametrize(
    "headers", [{"Connection": "close"}, {"content-length": "3"}, {"a b": "x"}, {"host": "{id}"}]
)
def test_a_header_that_cannot_be_sent_is_told_when_the_tool_is_made(headers):
    with pytest.raises(ToolError):
        request_of({"id": "a"}, headers=headers)
