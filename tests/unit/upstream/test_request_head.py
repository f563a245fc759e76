"""A request head is exactly one head."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import GatewayError
from app.upstream.http1 import Header
from app.upstream.request_head import RequestWriter, build_head


def test_a_head_is_what_the_rfc_says():
    head = build_head(
        b"POST",
        b"/v1/messages?beta=true",
        b"api.test",
        [(b"x-api-key", b"k"), (b"accept", b"*/*")],
        12,
    )
    assert head == (
        b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: api.test\r\nx-api-key: k\r\naccept: */*\r\n"
        b"content-length: 12\r\n\r\n"
    )


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"\r\n", b"\r\nX: y"])
@pytest.mark.parametrize("place", ["name", "value", "path", "method", "host"])
def test_nothing_that_ends_a_line_is_sent(place: str, bad: bytes):
    parts = {"name": b"a", "value": b"b", "path": b"/", "method": b"POST", "host": b"h"}
    parts[place] += bad
    with pytest.raises(GatewayError) as caught:
        build_head(
            parts["method"], parts["path"], parts["host"], [(parts["name"], parts["value"])], 0
        )
    assert caught.value.code == "invalid_upstream_header"


def test_the_refusal_names_the_header_and_never_its_value():
    with pytest.raises(GatewayError) as caught:
        build_head(
            b"POST", b"/", b"h", [(b"a", b"b"), (b"authorization", b"Bearer sk-secret\n")], 0
        )
    assert "authorization" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"a b",
        b"a:",
        b"\xc3\xa4",
        b"Host",
        b"Content-Length",
        b"transfer-encoding",
        b"Connection",
        b"TE",
    ],
)
def test_names_that_are_none_or_that_frame_the_message_are_refused(name: bytes):
    with pytest.raises(GatewayError):
        build_head(b"POST", b"/", b"h", [(name, b"x")], 0)


@pytest.mark.parametrize("path", [b"", b"v1", b"/a b", b"/\xc3\xa4", b"http://x/", b"*"])
def test_a_path_is_visible_ascii_from_the_root(path: bytes):
    with pytest.raises(GatewayError):
        build_head(b"GET", path, b"h", [], 0)


class Heard:
    """What another parser makes of our head."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.complete = 0
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.complete += 1


@given(
    st.lists(
        st.tuples(st.from_regex(rb"x-[a-z0-9]{1,8}", fullmatch=True), st.binary(max_size=20)),
        max_size=5,
    ),
    st.binary(max_size=10).map(lambda tail: b"/" + tail),
)
def test_whatever_the_caller_gives_it_is_refused_or_read_back_as_one_request(
    headers: list[Header], path: bytes
):
    try:
        head = RequestWriter(b"h").head(b"POST", path, headers, 0)
    except GatewayError:
        return
    heard = Heard()
    parser = httptools.HttpRequestParser(heard)
    try:
        parser.feed_data(head)
    except httptools.HttpParserError:
        # llhttp also refuses other control bytes in values; they cannot end a line.
        assert any(byte < 0x20 or byte == 0x7F for _, value in headers for byte in value)
        return
    assert heard.complete == 1
    assert heard.url == path
    assert [name for name, _ in heard.headers] == [
        b"host",
        *(n for n, _ in headers),
        b"content-length",
    ]
