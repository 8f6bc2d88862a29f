"""What is hardly HTTP any more: bytes for a connection of its own."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing.bodies import Request

_STARTS = [
    b"GET / HTTP/1.0", b"GET / HTTP/0.9", b"PRI * HTTP/2.0", b"OPTIONS * HTTP/1.1", b"GET /", b"",
    b"CONNECT a:1 HTTP/1.1", b"POST http://a/v1/models HTTP/1.1", b"GET //a/../b?c#d HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00", b"GET /%zz HTTP/1.1", b"POST /v1/completions HTTP/9.9",
    b"\xff\xfe / HTTP/1.1", b"GET /\0 HTTP/1.1", b"GET  /  HTTP/1.1", b"A" * 70_000,
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1", b"HEAD /v1/models HTTP/1.1", b"GET / HTTP/1.1 x",
]  # fmt: skip
_LINES = [
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x",
    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 5, 5",
    b"Content-Length: 99999999999999999999999999", b"Content-Length: 0x10", b"Content-Length: ",
    b"Content-Length: 60000", b"Host: a", b"Host: \xff", b"Connection: close", b"Connection: x, y",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: Upgrade\r\nUpgrade: h2c",
    b"Expect: 100-continue", b"Expect: x", b"Authorization: Bearer \xff", b"x-priority: \x01",
    b"Authorization: Bearer sk-acme", b"Authorization: Basic Og==", b" folded: line", b"no colon",
    b": no name", b"a\0b: c", b"x: " + b"y" * 20_000, b"a b: c",
    b"x-deadline-ms: 1\r\nx-priority: 2",
    b"Content-Encoding: gzip", b"Content-Type: multipart/form-data; boundary=\"", b"Cookie: ;=;",
    b"\r\n", b"x: \r y: z",
]  # fmt: skip
_BODIES = [
    b"5\r\nabcde\r\n0\r\n\r\n", b"5\r\nabc", b"-1\r\na\r\n0\r\n\r\n", b"ffffffffffffffffff\r\na",
    b"0\r\n",
    b"5;a=b\r\nabcde\r\n0\r\nx: y\r\n\r\n", b"zz\r\n", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"2\n{}\n0\n\n",
    b"2\r\n{}\r\n" * 500 + b"0\r\n\r\n", b"2\r\n{}0\r\n\r\n", b"\r\n\r\n", b"1" * 5000,
]  # fmt: skip


@st.composite
def raws(draw: Callable[..., Any], good: st.SearchStrategy[Request]) -> list[bytes]:
    """The pieces in which something that was a request is sent."""
    head, _, body = draw(good).wire().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if draw(st.integers(0, 3)) == 0:
        lines[0] = draw(st.sampled_from(_STARTS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(1, len(lines)))
        match draw(st.sampled_from(["add", "add", "remove", "double"])):
            case "add":
                lines.insert(at, draw(st.sampled_from(_LINES)))
            case "remove":
                del lines[at - 1]
            case "double":
                lines.insert(at, lines[at - 1])
        lines = lines or [b""]
    if draw(st.booleans()):
        body = draw(st.sampled_from(_BODIES))
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + body
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(whole)))
        whole = whole[:at] + draw(st.binary(max_size=2)) + whole[at + draw(st.integers(0, 2)) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=2)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
