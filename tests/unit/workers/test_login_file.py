"""A file of login settings: what it says to kafka-python, and what is refused, without a secret in the message."""

import logging

import pytest
from kafka import KafkaConsumer
from kafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
)

from ctr.errors import SettingError, SourceUnavailableError
from workers import kafka_login


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "kafka.properties"
        path.write_text(text)
        return path

    return write


def test_names_are_librdkafkas(written, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.touch()
    found = kafka_login.read(written(
        f"# who we are\nsecurity.protocol=sasl_ssl\nsasl.mechanisms = PLAIN\nsasl.username=a\nsasl.password = b=c#d \n"
        f"ssl.ca.location={ca}\nssl.endpoint.identification.algorithm=none\n"
    ))  # fmt: skip
    assert found == {
        "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": "a",
        "sasl_plain_password": "b=c#d", "ssl_cafile": str(ca), "ssl_check_hostname": False,
    }  # fmt: skip
    assert kafka_login.read(None) == {}
    assert set(kafka_login._NAMES.values()) <= KafkaConsumer.DEFAULT_CONFIG.keys(), "all of them are taken"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("group.id=x", "line 1 = 'group.id'"),
        ("# \n\nsasl.password", "line 3 = 'sasl.password'"),
        ("security.protocol=TLS", "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ("sasl.mechanism=PLAIN\nsasl.password=secret", "one with SASL"),
        ("security.protocol=SASL_PLAINTEXT\nssl.ca.location=/nowhere", "one with SSL"),
        ("security.protocol=SSL\nssl.ca.location=/nowhere", "'/nowhere': a file that exists"),
    ],
)
def test_what_cannot_be_used_is_named(written, text, said):
    with pytest.raises(SettingError) as caught:
        kafka_login.read(written(text))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingError, match=r"--kafka-config.*nowhere"):
        kafka_login.read(tmp_path / "nowhere")


def tried(*heard):
    """A client that fails with a time-out, having told its log this."""
    with kafka_login.connecting("h:1"):
        for error in heard:
            logging.getLogger("kafka.net.manager").warning("attempt failed: %s", error)
        raise KafkaTimeoutError("too late")


def test_the_most_telling_error_is_said():
    away = KafkaConnectionError("handshake failed")
    with pytest.raises(SettingError, match=r"refused the login.*bad password"):
        tried(SaslAuthenticationFailedError("bad password"), away)
    with pytest.raises(SourceUnavailableError, match=r"answers at h:1: .*handshake failed"):
        tried(away, KafkaTimeoutError("attempt"))
    # the last attempt has what is left of the time
    with pytest.raises(SourceUnavailableError, match=r"answers at h:1: .*handshake failed"):
        tried(away, RequestTimedOutError("after 74 ms"))
    with pytest.raises(SourceUnavailableError, match="refuses a login, or waits for TLS"):
        tried(KafkaConnectionError("socket disconnected"))
    with pytest.raises(SourceUnavailableError, match="too late"):
        tried()
    logger = logging.getLogger("kafka.net")
    assert (logger.handlers, logger.propagate) == ([], True)
