"""Addresses that can and cannot be listened on; a server beside a worker's own loop."""

import http.client
import socket
import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from ctr.errors import PortInUseError, SettingError
from ctr.serving.asgi import OpsApp, json_response
from ctr.serving.server import BackgroundServer, address_of, open_socket


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_addresses(listen):
    with open_socket(listen) as bound:
        host, port = bound.getsockname()[:2]
        assert host in {"127.0.0.1", "::1"}
        assert address_of(bound) == (f"[::1]:{port}" if host == "::1" else f"127.0.0.1:{port}")
        socket.create_connection((host, port)).close()


@pytest.mark.parametrize(
    "listen", ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:80", "[::1]",
               "no.such.host.invalid:80", "192.0.2.1:0"],
)  # fmt: skip
def test_addresses_that_cannot_be(listen):
    with pytest.raises(SettingError) as refused:
        open_socket(listen)
    assert str(refused.value).startswith(f"--listen = {listen!r}: HOST:PORT")


def test_taken_port():
    with open_socket("127.0.0.1:0") as bound:
        listen = address_of(bound)
        with pytest.raises(PortInUseError, match=listen):
            open_socket(listen)
    open_socket(listen).close()


def get(bound_to, path):
    connection = http.client.HTTPConnection(*bound_to, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_background_server():
    bound = open_socket("127.0.0.1:0")
    where = bound.getsockname()
    app = OpsApp(CollectorRegistry(), live=lambda: None, ready=lambda: "not yet")
    server = BackgroundServer(app, bound)
    server.start()
    assert get(where, "/livez")[0] == 200
    assert get(where, "/readyz") == (503, b'{"status":"unavailable","reason":"not yet"}')
    server.stop()
    server.stop()
    with pytest.raises(ConnectionError):
        get(where, "/livez")


def test_stop_ends_what_is_under_way():
    bound = open_socket("127.0.0.1:0")
    where = bound.getsockname()
    app = OpsApp(CollectorRegistry(), live=lambda: None, ready=lambda: None)
    entered = threading.Event()

    async def slow(_request):
        import asyncio

        entered.set()
        await asyncio.sleep(0.5)
        return json_response("done")

    app.route("GET", "/slow", slow)
    server = BackgroundServer(app, bound)
    server.start()
    answers = []
    client = threading.Thread(target=lambda: answers.append(get(where, "/slow")))
    client.start()
    entered.wait(5)
    server.stop()
    client.join()
    assert answers == [(200, b'"done"')]


def test_stop_before_start_closes_the_socket():
    bound = open_socket("127.0.0.1:0")
    server = BackgroundServer(OpsApp(CollectorRegistry(), live=lambda: None, ready=lambda: None), bound)
    server.stop()
    assert bound.fileno() == -1


def test_answers_queue_until_the_server_starts():
    """The port is bound early; a probe that comes before the server runs waits and is answered."""
    bound = open_socket("127.0.0.1:0")
    answers = []
    client = threading.Thread(target=lambda: answers.append(get(bound.getsockname(), "/livez")))
    client.start()
    time.sleep(0.1)
    server = BackgroundServer(OpsApp(CollectorRegistry(), live=lambda: None, ready=lambda: None), bound)
    server.start()
    client.join()
    server.stop()
    assert answers[0][0] == 200
