"""`ctr serve`: a Redis URL and a model's name in, an HTTP server that scores with it until it is told to stop."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ctr import log
from ctr.errors import CtrError, SettingError
from ctr.kernels import simd
from ctr.serving.follower import PRELOAD
from ctr.serving.http import ScorerApp
from ctr.serving.limits import Limits
from ctr.serving.scorer import Scorer
from ctr.serving.server import address_of, open_socket, run
from workers.answers import AnswerLog, Place
from workers.lifecycle import ExitCode, Shutdown, retry
from workers.page import scorer_page

DEFAULT_LISTEN = "127.0.0.1:8080"
_SWITCH_S = 0.0005
_STORE_LIMIT_S = 5.0
"""How long Redis may be away at the start: longer than its restart takes, shorter than anybody waits for a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What `ctr serve` is told."""

    models: tuple[str, ...]
    """Each ``name``, whose live generation is followed, or ``name@generation``."""
    redis: str = field(repr=False)  # may hold a password
    listen: str | None = None
    max_rows: int | None = None
    catalogue: str | None = None
    preload: int = PRELOAD
    limits: Limits = field(default_factory=Limits)
    token: str | None = field(default=None, repr=False)
    answers: str | None = None
    answers_share: float = 0.01
    kafka_config: Path | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise SettingError("MODEL", "", "at least one model")
        if len(set(self.models)) < len(self.models):
            raise SettingError("MODEL", " ".join(self.models), "each model once")


def read_token(path: Path) -> str:
    """Token that a file holds, blanks around it aside.

    Raises
    ------
    SettingError
        It cannot be read, or holds none. What it holds is not repeated.
    """
    allowed = "a readable file that holds the token, one line of visible ASCII"
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("--token-file", str(path), f"{allowed} ({type(error).__name__})") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingError("--token-file", str(path), allowed)
    return token


def serve(settings: ServeSettings, shutdown: Shutdown | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    The order of the end: ``/readyz`` says 503 and no connection is accepted any more; requests under way are answered;
    the follower stops. A second signal ends the process at once.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    PortInUseError
        Somebody listens there; found before anything else is done.
    ModelMissingError, ModelMismatchError, SettingError
    StoreUnavailableError
        Redis did not answer for 5 s.
    """
    bound = open_socket(settings.listen or DEFAULT_LISTEN)
    if shutdown is None:
        shutdown = Shutdown()
        shutdown.install()
    stopping = shutdown
    logger = log.get(worker="scorer", models=list(settings.models))
    answers = None if settings.answers is None else _answer_log(settings, settings.answers)

    def failed(error: CtrError, pause: float) -> None:
        logger.warning("waiting for the store", error=str(error), next_try_s=round(pause, 1))

    with bound:
        scorers = retry(
            lambda: [
                Scorer(
                    settings.redis, model, max_rows=settings.max_rows, catalogue=settings.catalogue,
                    preload=settings.preload,
                )
                for model in settings.models
            ],
            limit_s=_STORE_LIMIT_S,
            shutdown=stopping,
            grace_s=0.0,
            failed=failed,
        )
        app = ScorerApp(
            *scorers,
            limits=settings.limits,
            token=settings.token,
            ready=lambda: "stopping" if stopping.requested else None,
            answers=answers,
        )
        page = scorer_page(app, scorers)
        for scorer in scorers:
            scorer.start()
        page.start()
        if answers is not None:
            answers.start()
        generations = [scorer.model_id for scorer in scorers]
        logger.info("serving", generations=generations, listen=address_of(bound), isa=simd.ISA)
        # Requests wait for the follower's thread to give the interpreter up: up to 5 ms by Python's default.
        sys.setswitchinterval(_SWITCH_S)
        settled = False

        def tick() -> bool:
            nonlocal settled
            if not settled and app.models.ready() is None:
                # What is there by now stays: a full collection would walk it again and again, for tens of milliseconds.
                gc.collect()
                gc.freeze()
                settled = True
            return stopping.requested

        try:
            run(app, bound, tick)
        finally:
            page.stop()
            if answers is not None:
                answers.stop()
            app.close()
            for scorer in scorers:
                scorer.close()
        logger.info("stopped")
    return ExitCode.OK


def _answer_log(settings: ServeSettings, place: str) -> AnswerLog:
    login = None
    if settings.kafka_config is not None:
        from workers import kafka_login  # noqa: PLC0415  kafka-python takes 0.3 s: only where needed

        login = kafka_login.read(settings.kafka_config)
    return AnswerLog(Place.read(place), settings.answers_share, login)
