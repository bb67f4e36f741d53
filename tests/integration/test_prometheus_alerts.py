"""A real Prometheus with our rules beside a trainer and a scorer: alerts fire when something breaks, and end with it.

Its clock is the real one and the rules are those of deploy/prometheus, but for their durations: a thirtieth.
"""

import json
import re
import shutil
import urllib.parse
import urllib.request

import pytest
from conftest import CI
from promql import panel_queries
from workbench import SPEC, ctr, logged, market_lines, metric, scorer, send, trainer, wait_for

from ctr import __version__, log
from ctr.metrics import SCORER, TRAINER
from deploy.docs.metrics import most_series
from deploy.local.process import free_port
from deploy.local.prometheus import RULES, Prometheus

TIMES = 30
UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
THRESHOLDS = {"> 30\n": "> 2\n", "ctr_commit_last_seconds > 30)": "ctr_commit_last_seconds > 2)"}
"""Of CtrTrainerStalled: seconds, but no duration of Prometheus'."""

ELSEWHERE = {"ctr_names", "ctr_snapshots", "ctr_snapshot_last_seconds", "ctr_source_gap_events", "ctr_score_answers"}
"""Metrics of what these workers were not asked to do."""

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def shortened(rules):
    """The same rules with every duration a thirtieth, not less than a second."""
    assert all(rules.count(old) in (0, 1) for old in THRESHOLDS)
    for old, new in THRESHOLDS.items():
        rules = rules.replace(old, new)
    return re.sub(
        r"(?<=for: |val: |fset )\d+[smhd]\b|(?<=\[)\d+[smhd]\b",
        lambda found: f"{max(1000, int(found[0][:-1]) * UNITS_MS[found[0][-1]] // TIMES)}ms",
        rules,
    )


class Hasty(Prometheus):
    """Looks five times a second."""

    def prepare(self):
        super().prepare()
        self._config.write_text(self._config.read_text().replace("_interval: 5s", "_interval: 200ms"))
        for name in RULES:
            path = self.directory / name
            path.write_text(shortened(path.read_text()))

    def get(self, path, **parameters):
        """Answer of the HTTP interface."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            answer = json.loads(reply.read())
        assert answer["status"] == "success"
        return answer["data"]

    def value(self, query):
        """{label values: number} of a query."""
        found = self.get("query", query=query)["result"]
        return {tuple(one["metric"].values()): float(one["value"][1]) for one in found}

    def firing(self):
        """Alerts that fire now, by name."""
        found = {}
        for alert in self.get("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found


@pytest.fixture
def watched(kafka, breakable_redis, topic, tmp_path):
    """(prometheus, trainer, scorer, redis, topic) that have settled; no alert fires."""
    if shutil.which("prometheus") is None:
        (pytest.fail if CI else pytest.skip)("no prometheus: deploy/setup.sh services")
    spec, name = tmp_path / "ads.toml", topic()
    spec.write_text(SPEC + "[guard]\nmin_events = 1000\n")
    trains = trainer(
        tmp_path, spec, "--kafka", kafka.bootstrap, "--topic", name, "--redis", breakable_redis.url, "--create",
        "--refused-run", 0, "--refused-share", 1,
    )  # fmt: skip
    serves = scorer(tmp_path, "ads", "--redis", breakable_redis.url)
    targets = {"trainer:9100": f"127.0.0.1:{trains.port}", "scorer:8080": f"127.0.0.1:{serves.port}"}
    prometheus = Hasty(tmp_path / "prometheus", free_port(), targets)
    try:
        trains.start()
        send(kafka, name, market_lines(2000))
        serves.start()
        prometheus.start()
        wait_for(lambda: prometheus.value("sum(up)") == {(): 2.0}, within_s=20)
        wait_for(lambda: prometheus.value("model:ctr_writers:count") == {("model:ctr_writers:count", "ads@1"): 1.0})
        yield prometheus, trains, serves, breakable_redis, name
    finally:
        trains.resume()
        for service in (prometheus, serves, trains):
            service.stop()


def test_breakdowns_are_told_of_and_their_end_too(watched, kafka):
    prometheus, trains, serves, redis, name = watched

    # all is well: rules can be evaluated, queries of dashboards too, and there are no more series than we say
    wait_for(lambda: all(
        rule["health"] == "ok" and rule["lastEvaluation"] > "2000"
        for group in prometheus.get("rules")["groups"] for rule in group["rules"]
    ))  # fmt: skip
    for _, _, query in panel_queries():
        asked = query.replace("$__rate_interval", "2s").replace('"$instance"', '".+"').replace("$model", ".+")
        prometheus.get("query", query=asked.replace("$slice", ".+"))
    ours = prometheus.value('count by (job) ({__name__=~"ctr_.+"})')
    assert 40 < ours["trainer",] <= most_series(TRAINER, 1)
    assert 30 < ours["scorer",] <= most_series(SCORER, 1)
    wait_for(lambda: prometheus.firing() == {}, within_s=20)

    # a trainer that hangs: nobody scrapes it, its scorer tells
    trains.pause()
    (stalled,) = wait_for(lambda: prometheus.firing().get("CtrTrainerStalled"), within_s=30)
    assert (stalled["labels"]["model"], stalled["labels"]["severity"]) == ("ads", "page")
    assert "ads" in stalled["annotations"]["summary"]
    trains.resume()
    wait_for(lambda: "CtrTrainerStalled" not in prometheus.firing(), within_s=30)

    # a store that is away: both tell
    redis.stop()
    down = wait_for(lambda: len(found := prometheus.firing().get("CtrStoreDown", [])) == 2 and found, within_s=30)
    assert {alert["labels"]["job"] for alert in down} == {"trainer", "scorer"}
    redis.start()
    wait_for(lambda: "CtrStoreDown" not in prometheus.firing(), within_s=30)

    # a stream of rubbish among good events
    lines = market_lines(3000, seed=2)
    send(kafka, name, [b"rubbish" if at % 3 == 0 else line for at, line in enumerate(lines)])
    (letters,) = wait_for(lambda: prometheus.firing().get("CtrDeadLetters"), within_s=30)
    share = float(re.search(r"([\d.]+)% of its events", letters["annotations"]["summary"])[1])
    assert 20 < share < 40
    assert metric(trains, "ctr_events_total", result="refused") == 1000
    send(kafka, name, market_lines(1000, seed=3))
    wait_for(lambda: "CtrDeadLetters" not in prometheus.firing(), within_s=45)
    # a stream of wrong labels: nothing of it reaches the store, and learning waits for us
    send(kafka, name, market_lines(16_000, seed=4))
    wait_for(lambda: metric(trains, "ctr_guard_armed") == 1)
    send(kafka, name, [json.dumps(e | {"click": 1 - e["click"]}).encode() for e in map(json.loads, lines)])
    (guard,) = wait_for(lambda: prometheus.firing().get("CtrGuardRefusing"), within_s=30)
    assert guard["labels"]["severity"] == "page"
    behind = f"{name}:0={2000 + 3000 + 1000 + 16_000 + len(lines)}"
    decision = ("guard", "ads", "discard", "--to", behind, "--redis", redis.url)
    wait_for(lambda: ctr(*decision).returncode == 0)  # the alert may be quicker than the record
    wait_for(lambda: "CtrGuardRefusing" not in prometheus.firing(), within_s=30)

    exposed = set(prometheus.get("label/__name__/values"))
    silent = {metric.name for metric in (*TRAINER, *SCORER) if not exposed >= set(metric.exposed)}
    silent -= {name for name in silent if name.startswith("ctr_redis_")}  # every ten seconds
    assert silent <= ELSEWHERE
    for worker, role in ((trains, "trainer"), (serves, "scorer")):
        assert {line["version"] for line in logged(worker)} == {__version__}
        assert role in {line["worker"] for line in logged(worker)}
    refused = [line for line in logged(trains) if line["event"] == "refused"]
    assert all((line["model"], line["partition"]) == ("ads@1", f"{name}:0") for line in refused)
    assert 0 < len(refused) <= log.BURST + 60 * log.PER_S
    for alert in (stalled, *down, letters):
        assert not re.search("no value|error", " ".join(alert["annotations"].values()))
