"""A file of login settings goes in, what every Kafka client of ours is made with comes out: TLS and SASL.

The file has librdkafka's names, as kcat and most clients take them, one a line::

    security.protocol = SASL_SSL
    sasl.mechanism = SCRAM-SHA-256
    sasl.username = ads
    sasl.password = secret
    ssl.ca.location = /etc/ssl/kafka-ca.pem
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    KafkaTimeoutError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from ctr.errors import CtrError, SettingError, SourceUnavailableError

OPTION = "--kafka-config"
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_NAMES = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "sasl.kerberos.service.name": "sasl_kerberos_service_name",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
    "ssl.crl.location": "ssl_crlfile",
    "ssl.cipher.suites": "ssl_ciphers",
    "ssl.endpoint.identification.algorithm": "ssl_check_hostname",
    "client.id": "client_id",
}
_TIME_OUTS = (KafkaTimeoutError, RequestTimedOutError)
_REFUSED = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, IllegalSaslStateError)


def read(path: Path | None) -> dict[str, Any]:
    """Settings of a file, as kafka-python takes them; none where there is no file.

    Raises
    ------
    SettingError
        The file, a name in it, or a value. No value of it is shown: it may be a password.
    """
    if path is None:
        return {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(OPTION, str(path), f"a text file that can be read ({type(error).__name__})") from None
    found: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        name, separator, value = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not separator or name not in _NAMES:
            raise SettingError(f"{OPTION} {path}, line {number}", name, f"NAME = VALUE, of {', '.join(_NAMES)}")
        found[_NAMES[name]] = value
    return _checked(found, path)


def _checked(found: dict[str, Any], path: Path) -> dict[str, Any]:
    protocol = found.get("security_protocol", "PLAINTEXT").upper()
    if protocol not in _PROTOCOLS:
        raise SettingError(f"{OPTION} {path}", f"security.protocol={protocol}", f"one of {', '.join(_PROTOCOLS)}")
    for prefix, word in (("sasl_", "SASL"), ("ssl_", "SSL")):
        if word not in protocol and any(name.startswith(prefix) for name in found):
            raise SettingError(
                f"{OPTION} {path}", f"security.protocol={protocol}", f"one with {word}, as there are settings for it"
            )
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"):
        if name in found and not Path(found[name]).is_file():
            raise SettingError(f"{OPTION} {path}", found[name], "a file that exists")
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = found["ssl_check_hostname"].lower() not in ("none", "")
    return {**found, "security_protocol": protocol}


@contextlib.contextmanager
def connecting(bootstrap: str) -> Iterator[None]:
    """Make a client in here: what goes wrong is raised as our errors.

    Raises
    ------
    SourceUnavailableError
        Nobody answers, or TLS does not come about.
    SettingError
        The broker refuses the login.
    """
    with _heard() as causes:
        try:
            yield
        except (KafkaError, ValueError, OSError) as error:
            raise _not_let_in(bootstrap, [*causes, error]) from None


def _not_let_in(bootstrap: str, errors: Sequence[BaseException]) -> CtrError:
    """The most telling of several errors, the last of which are often mere time-outs."""
    for error in errors:
        if isinstance(error, _REFUSED):
            return SettingError("--kafka", bootstrap, f"the broker refused the login ({error}): see {OPTION}")
    telling = [error for error in errors if not isinstance(error, _TIME_OUTS)]
    error = (telling or errors)[-1]
    said = str(error) or type(error).__name__
    if "socket disconnected" in said:
        said += "; so does a broker that refuses a login, or waits for TLS"
    return SourceUnavailableError(f"no Kafka broker answers at {bootstrap}: {said}")


@contextlib.contextmanager
def _heard() -> Iterator[list[BaseException]]:
    """Errors that kafka-python tells its log alone: it tries again until the time is over, and raises that."""
    heard: list[BaseException] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            given = record.args if isinstance(record.args, tuple) else ()
            heard.extend(part for part in given if isinstance(part, KafkaError))

    handler, logger = Listener(logging.WARNING), logging.getLogger("kafka.net")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
        logger.propagate = before[1]
        logger.setLevel(before[0])
