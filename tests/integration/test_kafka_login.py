"""A broker that asks for TLS and a login, for real: every command of ours that speaks to Kafka, and what it says."""

import gc
import json
import subprocess

import pytest
from kafka.admin import UserScramCredentialUpsertion
from workbench import FIELDS, SPEC, ctr, learned_counts, logged, read_topic, stored, touched, trainer, wait_for

from ctr.errors import SettingError, SourceUnavailableError
from ctr.store import connect
from deploy.local.kafka import Kafka
from deploy.local.process import HOST, free_port
from workers import kafka_login
from workers.lifecycle import ExitCode
from workers.sources import health

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


class Guarded(Kafka):
    """A broker that has a second listener, where one must log in over TLS."""

    def __init__(self, directory, pem):
        super().__init__(directory, free_port(), free_port())
        self.guarded_port, self._pem = free_port(), pem

    @property
    def ports(self):
        return [*super().ports, self.guarded_port]

    @property
    def guarded(self):
        return f"{HOST}:{self.guarded_port}"

    def prepare(self):
        super().prepare()
        settings = {
            "listeners": f"PLAINTEXT://{HOST}:{self.port},GUARDED://{self.guarded},"
            f"CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port},GUARDED://{self.guarded}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,GUARDED:SASL_SSL,CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._pem,
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.guarded.plain.sasl.jaas.config": f'{PLAIN} required user_ads="tiger lily";',
            "listener.name.guarded.scram-sha-256.sasl.jaas.config": f"{SCRAM} required;",
        }
        with self._properties.open("a") as file:  # the last value of a name holds
            file.writelines(f"{name}={value}\n" for name, value in settings.items())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A broker of its own, and its certificate."""
    directory = tmp_path_factory.mktemp("guarded")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out",
         "cert.pem", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}"],
        check=True, capture_output=True, cwd=directory,
    )  # fmt: skip
    (directory / "both.pem").write_text((directory / "key.pem").read_text() + (directory / "cert.pem").read_text())
    broker = Guarded(directory / "kafka", directory / "both.pem")
    broker.start()
    yield broker, directory / "cert.pem"
    broker.stop()


@pytest.fixture
def config(guarded, tmp_path):
    """config(mechanism, password) writes a login file."""

    def write(mechanism="PLAIN", password="tiger lily", protocol="SASL_SSL", ca=guarded[1]):
        path = tmp_path / f"{mechanism}-{protocol}.properties"
        lines = [f"security.protocol = {protocol}", f"sasl.mechanism={mechanism}", "sasl.username=ads"]
        lines += ["# the secret", f"sasl.password={password}", "", *([f"ssl.ca.location={ca}"] if ca else [])]
        path.write_text("\n".join(lines))
        return path

    return write


def test_a_trainer_logs_in_over_tls(guarded, config, redis_url, tmp_path):
    broker, _ = guarded
    (tmp_path / "ads.toml").write_text(SPEC)
    given = ("--kafka", broker.guarded, "--topic", "guarded", "--kafka-config", config())
    done = ctr("simulate", *given, "--events", 400, "--seed", 3)
    assert done.returncode == ExitCode.OK, done.stderr
    (tmp_path / "broken.jsonl").write_text("broken\n")
    done = ctr("replay", tmp_path / "broken.jsonl", *given)
    assert done.returncode == ExitCode.OK, done.stderr
    worker = trainer(tmp_path, tmp_path / "ads.toml", *given, "--redis", redis_url, "--create")
    worker.start()
    with connect(redis_url) as client:
        wait_for(lambda: stored(client, "ads@1")[1].get(b"offset:guarded:0") == b"401")
        worker.stop()
        counts = learned_counts(stored(client, "ads@1")[0], len(FIELDS))
    lines = [record.value for record in read_topic(broker.bootstrap, "guarded", 401)]
    assert counts == touched([line for line in lines if line != b"broken"], FIELDS)
    [letter] = read_topic(broker.bootstrap, "guarded.dlq", 1)
    assert letter.value == b"broken"
    done = ctr("doctor", *given, "--redis", redis_url, "--json")
    found = {finding["name"]: finding["status"] for finding in json.loads(done.stdout)}
    assert (found["kafka topic"], found["kafka records"], found["kafka dead letters"]) == ("ok", "ok", "ok")
    assert "tiger" not in worker.log.read_text() + done.stdout + done.stderr
    assert "stopped" in {line["event"] for line in logged(worker)}


def test_scram_is_another_mechanism(guarded, config, tmp_path):
    broker, _ = guarded
    with broker.cluster.admin() as admin:
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion("ads", "SCRAM-SHA-256", "tiger lily")])
    given = ("--kafka", broker.guarded, "--topic", "scram", "--kafka-config", config("SCRAM-SHA-256"))
    done = ctr("simulate", *given, "--events", 10)
    assert done.returncode == ExitCode.OK, done.stderr
    assert len(read_topic(broker.bootstrap, "scram", 10)) == 10


# kafka-python leaves the sockets of connections that failed to the collector
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        # a connection that is closed at once may be all that is seen of a refusal
        ({"password": "lion"}, "refuse(d the|s a) login"),
        ({"mechanism": "SCRAM-SHA-512"}, "refuse(d the|s a) login"),
        ({"ca": None}, "certificate verify failed"),
    ],
    ids=["password", "mechanism", "certificate"],
)
def test_who_is_not_let_in_is_told_why(guarded, config, changed, said):
    login = kafka_login.read(config(**changed))
    with pytest.raises((SettingError, SourceUnavailableError), match=said) as caught:
        health.look(guarded[0].guarded, "t", timeout_s=6, login=login)
    assert "tiger" not in str(caught.value)
    assert "lion" not in str(caught.value)
    gc.collect()
