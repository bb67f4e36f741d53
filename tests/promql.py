"""What tests of rules and dashboards share: the metrics that a query names, and promtool."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import CI

from ctr.metrics import SCORER, TRAINER

DEPLOY = Path(__file__).parents[1] / "deploy"
OURS = {name for metric in (*TRAINER, *SCORER) for name in metric.exposed}
OTHERS = {"up", "process_resident_memory_bytes"}
"""Prometheus' own, and the client's."""
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


def rules(name):
    """Rules of a file of deploy/prometheus, in order."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / f"{name}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboards():
    """{name: parsed JSON}."""
    paths = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def panel_queries():
    """(dashboard, panel, query) of all dashboards."""
    return [
        (name, panel["title"], target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def names_in(query):
    """Series that a query names: what is left of its words without strings, label lists, functions and operators."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', "", re.sub(r'"[^"]*"', '""', query))
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*\b(?!\s*\()", bare)
    return {word for word in words if word.lower() not in _WORDS}


def promtool(*arguments, given=None):
    """Run promtool, with `given` as its input; fails with what it says."""
    binary = shutil.which("promtool")
    if binary is None:
        (pytest.fail if CI else pytest.skip)("no promtool: deploy/setup.sh services")
    done = subprocess.run(
        [binary, *map(str, arguments)], input=given, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
