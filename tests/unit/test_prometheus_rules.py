"""Rules are what Prometheus accepts, name what exists, fire and end as promtool plays it; each has a runbook entry."""

import re

import pytest
import yaml
from click.testing import CliRunner
from promql import DEPLOY, OTHERS, OURS, names_in, panel_queries, promtool, rules

from deploy.local.prometheus import Prometheus
from workers import cli

PROMETHEUS, TESTS = DEPLOY / "prometheus", DEPLOY.parent / "tests" / "prometheus"
ALERTS, RECORDED = rules("alerts"), {rule["record"] for rule in rules("recording")}
RUNBOOK = (DEPLOY / "docs" / "runbook.md").read_text()


def test_prometheus_accepts_configuration_and_rules():
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_the_local_prometheus_has_the_rules_too(tmp_path):
    Prometheus(tmp_path, 9090, {"trainer:9100": "127.0.0.1:1", "scorer:8080": "127.0.0.1:2"}).prepare()
    said = promtool("check", "config", tmp_path / "prometheus.yml")
    assert sorted(map(int, re.findall(r"(\d+) rules found", said))) == sorted((len(ALERTS), len(rules("recording"))))


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.yml")), ids=lambda path: path.stem)
def test_alerts_fire_and_end(path):
    promtool("test", "rules", path)


def test_every_alert_of_every_severity_is_shown_quiet_firing_and_quiet_again():
    shown = set()
    for path in TESTS.glob("*.yml"):
        for case in yaml.safe_load(path.read_text())["tests"]:
            moments = case["promql_expr_test"]
            (name,) = {re.search(r'alertname="(\w+)"', moment["expr"])[1] for moment in moments}
            firing = [moment["exp_samples"] for moment in moments]
            if firing[-1] == []:
                shown |= {(name, re.search(r'severity="(\w+)"', s["labels"])[1]) for found in firing for s in found}
    assert shown == {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}


def test_names_in_a_query():
    query = """sum by (job, up) (rate(a_total{b="c_d"}[5m] offset 1d))
        / on (x) group_left (m) l:b:c > bool 14.4 * 1e3 or absent(up{j="k"})"""
    assert names_in(query) == {"a_total", "l:b:c", "up"}


@pytest.mark.parametrize("rule", [*ALERTS, *rules("recording")], ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_what_exists(rule):
    assert names_in(rule["expr"])
    assert names_in(rule["expr"]) <= OURS | OTHERS | RECORDED


def test_what_is_recorded_is_used():
    queries = [rule["expr"] for rule in (*ALERTS, *rules("recording"))] + [query for _, _, query in panel_queries()]
    assert set().union(*map(names_in, queries)) >= RECORDED


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_alerts_say_what_it_is_how_bad_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"deploy/docs/runbook.md#{rule['alert'].lower()}"


def test_each_alert_has_an_entry_in_the_runbook_and_each_entry_an_alert():
    assert re.findall(r"^## (\w+)", RUNBOOK, re.MULTILINE) == list(dict.fromkeys(rule["alert"] for rule in ALERTS))


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in ALERTS}))
def test_an_entry_says_severity_meaning_where_to_look_and_what_to_do(alert):
    entry = RUNBOOK.split(f"## {alert}\n")[1].split("\n## ")[0]
    severities = {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == alert}
    assert set(re.search(r"\*([a-z, ]+)\.\*", entry)[1].replace("or", "").replace(",", "").split()) == severities
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in entry


def test_metrics_that_the_runbook_names_exist():
    named = set(re.findall(r"`(ctr_\w+)", RUNBOOK))
    assert named
    assert named <= OURS | {name.removesuffix("_total") for name in OURS}


def options_of(*path):
    """Options of a command, as its help has them."""
    helped = CliRunner().invoke(cli.main, [*path, "--help"])
    assert helped.exit_code == 0, path
    return set(re.findall(r"--[a-z-]+", helped.output))


def test_commands_of_the_runbook_exist():
    commands = re.findall(r"`?(?<![\w/])ctr ([a-z][^`\n]*)", RUNBOOK)
    assert len(commands) > 15
    for command in commands:
        words = command.split("#")[0].split()
        if words[0] == "guard" and "guard" not in cli.main.commands:
            continue  # comes with the guard's own branch
        path = [words[0], *([words[1]] if words[0] in {"models", "catalogue"} else [])]
        assert set(re.findall(r"--[a-z-]+", command)) <= options_of(*path), command


def test_options_that_the_runbook_names_alone_exist():
    alone = set(re.findall(r"`(--[a-z-]+)", RUNBOOK))
    known = options_of("train") | options_of("serve")
    assert {"--lease", "--outage-limit"} < alone <= known | {"--to"}  # of ctr guard
