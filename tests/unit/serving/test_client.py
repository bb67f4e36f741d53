"""`ctr.Client` over real sockets: right answers, what is retried and what never, within the deadline."""

import asyncio
import contextlib
import math
import socket
import threading
import time

import pytest
from test_http import StubScorer

import ctr
from ctr.errors import RequestRefusedError, ScorerUnavailableError
from ctr.serving.http import ScorerApp
from ctr.serving.limits import Limits
from ctr.serving.server import BackgroundServer, address_of, open_socket
from deploy.local.process import free_port

TOKEN = "t0ken"


@contextlib.contextmanager
def serving(scorer, listen="127.0.0.1:0", **limits):
    app = ScorerApp(scorer, limits=Limits(**limits), token=TOKEN)
    bound = open_socket(listen)
    server = BackgroundServer(app, bound)
    server.start()
    try:
        yield app, f"http://{address_of(bound)}"
    finally:
        server.stop()
        app.close()


class Sync:
    """`AsyncClient` with the face of `Client`."""

    def __init__(self, *arguments, **options):
        self._loop = asyncio.new_event_loop()
        self._client = ctr.AsyncClient(*arguments, **options)

    def __getattr__(self, name):
        return lambda *arguments, **options: self._loop.run_until_complete(
            getattr(self._client, name)(*arguments, **options)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=[ctr.Client, Sync], ids=["sync", "async"])
def client(request):
    return request.param


def asked(app):
    return sum(app._requests.values())


def test_predict_and_what_it_is_made_of(client):
    scorer = StubScorer()
    with serving(scorer) as (_, url), client(url, token=TOKEN) as made:
        answer = made.predict("ads", [{"user": 1}, {}])
        assert answer.value == [0.25, 0.25]
        assert answer.made.model == "ads@2"
        assert answer.made.version == "7-ab"
        assert (answer.made.staleness_s, answer.made.stale, answer.made.fallback) == (1.25, False, 0)
        scorer.staleness = math.inf
        stale = made.predict("ads@2", [{}]).made
        assert (stale.staleness_s, stale.stale) == (math.inf, True)


def test_refusals_are_not_repeated(client):
    with serving(StubScorer()) as (app, url):
        with client(url, token=TOKEN) as made:
            for model, rows, status in (("ads", [{"user": {}}], 400), ("nobody", [{}], 404), ("ads@1", [{}], 404)):
                with pytest.raises(RequestRefusedError) as refused:
                    made.predict(model, rows)
                assert refused.value.status == status
                assert not refused.value.retriable
        with client(url, token="wrong") as made, pytest.raises(RequestRefusedError, match=r"^401"):
            made.predict("ads", [{}])
        assert asked(app) == 4


def test_a_server_that_is_starting_is_asked_again(client):
    scorer = StubScorer()
    scorer.starting = "starting: kernels are being compiled"
    with serving(scorer) as (app, url), client(url, token=TOKEN, timeout_s=5.0) as made:
        threading.Timer(0.3, setattr, (scorer, "starting", None)).start()
        assert made.predict("ads", [{}]).value == [0.25]
        assert 2 <= asked(app) <= 20


def test_but_not_beyond_the_deadline(client):
    scorer = StubScorer()
    scorer.starting = "starting: kernels are being compiled"
    with serving(scorer) as (_, url), client(url, token=TOKEN, timeout_s=0.5) as made:
        began = time.monotonic()
        with pytest.raises(ScorerUnavailableError, match="kernels are being compiled") as failed:
            made.predict("ads", [{}])
        assert failed.value.retriable
        assert 0.2 < time.monotonic() - began < 1.5


def test_refused_connections_are_tried_again(client):
    port = free_port()
    with contextlib.ExitStack() as stack, client(f"http://127.0.0.1:{port}", token=TOKEN, timeout_s=5.0) as made:
        starter = threading.Timer(0.3, lambda: stack.enter_context(serving(StubScorer(), f"127.0.0.1:{port}")))
        starter.start()
        assert made.predict("ads", [{}]).value == [0.25]
        starter.join()
    with client(f"http://127.0.0.1:{free_port()}", timeout_s=0.2) as made:
        began = time.monotonic()
        with pytest.raises(ScorerUnavailableError):
            made.predict("ads", [{}])
        assert time.monotonic() - began < 1.0


def test_a_server_that_may_be_at_work_is_not_asked_again(client):
    """It takes the request and never answers: to send another would double its load."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = []

        def take():
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listening.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        with client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3) as made:
            began = time.monotonic()
            with pytest.raises(ScorerUnavailableError):
                made.predict("ads", [{}])
            assert 0.2 < time.monotonic() - began < 1.5
        assert len(taken) == 1
        for connection in taken:
            connection.close()


def test_no_answer_of_ours(client):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection = listening.accept()[0]
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with client(url) as made, pytest.raises(RequestRefusedError, match="no answer of `ctr serve`"):
            made.predict("ads", [{}])


def test_the_token_is_not_shown():
    with ctr.Client("http://127.0.0.1:1", token=TOKEN) as made:
        assert TOKEN not in repr(made)
