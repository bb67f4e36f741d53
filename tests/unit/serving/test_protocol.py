"""Plain requests are answered where they are read, all others as uvicorn does it; nobody can tell but by the time."""

import asyncio
import re
import socket
import threading
import time

import pytest

from ctr.serving.asgi import JSON, App, HttpError, Response
from ctr.serving.server import BackgroundServer, open_socket

LIMITS = {"max_body_bytes": 200_000, "max_headers": 6, "max_header_bytes": 500}


class Echo:
    """An application whose answers say which way they came; `asked` has the bodies that were not answered at once."""

    def __init__(self, **options):
        self.asked, self.observed = [], []
        self.app = App(observe=lambda route, status, _s: self.observed.append((route, status)), **{**LIMITS, **options})
        self.app.route("POST", "/echo/{name}", self.usual, plain=self.plain)
        self.app.route("POST", "/other", self.usual)
        self.bound = open_socket("127.0.0.1:0")
        self.where = self.bound.getsockname()
        self.server = BackgroundServer(self.app, self.bound)
        self.server.start()

    def plain(self, params, body, _began):
        if body.startswith(b"crash"):
            raise RuntimeError("a defect")
        if body.startswith(b"refused"):
            raise HttpError(400, "no")
        return None if body.startswith(b"slow") else self.said(params, body)

    async def usual(self, request):
        self.asked.append(request.body)
        await asyncio.sleep(0.2 * request.body.startswith(b"slow"))
        return self.said(request.params, request.body)

    @staticmethod
    def said(params, body):
        way = b"short" if asyncio.current_task() is None else b"usual"  # ASGI calls an application in a task
        return Response(b"%s %s" % (params.get("name", "-").encode(), body), headers=[JSON, (b"x-way", way)])


@pytest.fixture
def echo():
    made = []

    def make(**options):
        made.append(Echo(**options))
        return made[-1]

    yield make
    for one in made:
        one.server.stop()


def post(body, path="/echo/a", *more):
    head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answers(link, count):
    """(status, headers, body) of so many answers, in the order in which they come."""
    found, data = [], b""
    link.settimeout(20)
    while len(found) < count:
        head, end, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if not end or len(rest) < int(length[1]):
            got = link.recv(1 << 16)
            assert got, f"closed after {data!r}"
            data += got
            continue
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        found.append((int(lines[0].split()[1]), headers, rest[: int(length[1])]))
        data = rest[int(length[1]) :]
    assert not data
    return found


def ask(one, *pieces, count=1):
    with socket.create_connection(one.where) as link:
        for piece in pieces:
            link.sendall(piece)
            time.sleep(0.02 * (len(pieces) > 1))
        return answers(link, count)


def test_both_ways_give_the_same_answer(echo):
    one = echo()
    [(status, headers, body)] = ask(one, post(b"hello"))
    [(usual_status, usual_headers, usual_body)] = ask(one, post(b"hello", "/echo/a?x=1"))
    assert (headers.pop("x-way"), usual_headers.pop("x-way")) == ("short", "usual")
    assert status == usual_status == 200
    assert body == usual_body == b"a hello"
    assert list(headers) == list(usual_headers) == ["date", "content-type", "content-length"]
    assert one.observed == [("/echo/{name}", 200)] * 2


@pytest.mark.parametrize("cut", [1, 30, 60, 64, 70])
def test_a_request_may_come_in_pieces(echo, cut):
    sent = post(b"0123456789")
    [(_, headers, body)] = ask(echo(), sent[:cut], sent[cut : cut + 3], sent[cut + 3 :])
    assert headers["x-way"] == "short"
    assert body == b"a 0123456789"


def test_a_body_in_chunks(echo):
    head = b"POST /echo/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    [(_, headers, body)] = ask(echo(), head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
    assert (headers["x-way"], body) == ("short", b"a abcde")


def test_a_body_of_many_small_chunks_takes_no_longer_than_its_bytes(echo):
    n = 1_000_000  # copied whole at each chunk they would be 500 GB: no answer within a client's patience
    head = b"POST /echo/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    [(status, _, body)] = ask(echo(max_body_bytes=n), head + b"1\r\nx\r\n" * n + b"0\r\n\r\n")
    assert (status, body) == (200, b"a " + b"x" * n)


def test_answers_keep_the_order_of_requests(echo):
    one = echo()
    bodies = [b"1", b"slow 2", b"3", b"slow 4", b"5"]
    found = ask(one, b"".join(map(post, bodies)), count=5)
    assert [body for _, _, body in found] == [b"a " + body for body in bodies]
    assert [headers["x-way"] for _, headers, _ in found][:2] == ["short", "usual"]
    again = ask(one, post(b"slow 6"), post(b"7"), count=2)
    assert [body for _, _, body in again] == [b"a slow 6", b"a 7"]


@pytest.mark.parametrize(
    ("sent", "status", "way"),
    [
        (post(b"slow"), 200, "usual"),
        (post(b"x", "/other"), 200, "usual"),
        (post(b"x", "/echo/%61"), 200, "usual"),
        (post(b"x", "/echo/a", "connection: close"), 200, "usual"),
        (post(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"), 200, "usual"),
        (post(b"x", "/echo/a", "upgrade: h2c", "connection: upgrade"), 200, "usual"),
        (post(b"x", "/nowhere"), 404, None),
        (post(b"x" * 200_001), 413, None),
        (post(b"x").replace(b"POST", b"PUT"), 405, None),
        (post(b"x", "/echo/a", *(f"h{i}: x" for i in range(6))), 431, None),
        (post(b"x", "/echo/a", "h: " + "x" * 500), 431, None),
        (post(b"crash"), 500, None),
        (post(b"refused"), 400, None),
    ],
)
def test_what_is_not_plain_goes_the_usual_way(echo, sent, status, way):
    [(given, headers, _)] = ask(echo(), sent)
    assert (given, headers.get("x-way")) == (status, way)


def test_a_body_that_is_too_long_is_not_collected(echo):
    one = echo()
    head = b"POST /echo/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with socket.create_connection(one.where) as link:
        link.sendall(head)
        for _ in range(5):
            link.sendall(chunk)
        [(status, _, _)] = answers(link, 1)
    assert status == 413
    assert not one.asked


def test_a_client_that_waits_to_be_told_to_go_on(echo):
    with socket.create_connection(echo().where) as link:
        link.sendall(post(b"hello", "/echo/a", "expect: 100-continue")[:-5])
        assert link.recv(100).startswith(b"HTTP/1.1 100")
        link.sendall(b"hello")
        assert answers(link, 1)[0][2] == b"a hello"


def test_a_token_is_asked_for_on_either_way(echo):
    one = echo(token="secret")
    for wrong in ((), ("authorization: Bearer wrong",)):
        assert ask(one, post(b"x", "/echo/a", *wrong))[0][0] == 401
    [(status, headers, _)] = ask(one, post(b"x", "/echo/a", "authorization: Bearer secret"))
    assert (status, headers["x-way"]) == (200, "short")


def test_a_request_that_is_being_read_is_answered_before_the_end(echo):
    one = echo()
    with socket.create_connection(one.where) as link:
        link.sendall(post(b"0123456789")[:-4])
        time.sleep(0.1)
        stopping = threading.Thread(target=one.server.stop)
        stopping.start()
        time.sleep(0.3)
        link.sendall(b"6789")
        [(status, headers, body)] = answers(link, 1)
        stopping.join(10)
    assert (status, headers["x-way"], body) == (200, "usual", b"a 0123456789")


def test_a_client_that_does_not_read_holds_nothing_up_and_fills_no_memory(echo):
    one = echo()
    with socket.create_connection(one.where) as link:
        link.setblocking(False)
        sent, request = 0, post(bytes(100_000))
        until = time.monotonic() + 2
        while time.monotonic() < until and sent < 400:
            try:
                if link.send(request) < len(request):
                    break
                sent += 1
            except BlockingIOError:
                break
        assert sent < 400, "the server stops reading where nobody reads its answers"
        assert ask(one, post(b"x"))[0][2] == b"a x"
