"""`ctr serve`: a Redis URL and a model's name in, an HTTP server that scores with it until it is told to stop."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctr import log
from ctr.errors import CtrError
from ctr.kernels import simd
from ctr.serving.asgi import MAX_BODY_BYTES
from ctr.serving.http import DEADLINE_S, MAX_INSTANCES, STALE_AFTER_S, ScorerApp
from ctr.serving.scorer import Scorer
from ctr.serving.server import address_of, open_socket, run
from workers.lifecycle import ExitCode, Shutdown, retry

DEFAULT_LISTEN = "127.0.0.1:8080"
_STORE_LIMIT_S = 5.0
"""How long Redis may be away at the start: longer than its restart takes, shorter than anybody waits for a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What `ctr serve` is told. Durations in seconds."""

    model: str
    redis: str = field(repr=False)  # may hold a password
    listen: str | None = None
    max_rows: int | None = None
    deadline_s: float = DEADLINE_S
    stale_after_s: float = STALE_AFTER_S
    max_instances: int = MAX_INSTANCES
    max_body_bytes: int = MAX_BODY_BYTES


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
    logger = log.get(worker="serve", model=settings.model)

    def failed(error: CtrError, pause: float) -> None:
        logger.warning("waiting for the store", error=str(error), next_try_s=round(pause, 1))

    with bound:
        scorer = retry(
            lambda: Scorer(settings.redis, settings.model, max_rows=settings.max_rows),
            limit_s=_STORE_LIMIT_S,
            shutdown=stopping,
            grace_s=0.0,
            failed=failed,
        )
        app = ScorerApp(
            scorer,
            deadline_s=settings.deadline_s,
            stale_after_s=settings.stale_after_s,
            max_instances=settings.max_instances,
            max_body_bytes=settings.max_body_bytes,
            ready=lambda: "stopping" if stopping.requested else None,
        )
        scorer.start()
        logger.info("serving", generation=scorer.spec.generation, listen=address_of(bound), isa=simd.ISA)
        try:
            run(app, bound, lambda: stopping.requested)
        finally:
            app.close()
            scorer.close()
        logger.info("stopped")
    return ExitCode.OK
