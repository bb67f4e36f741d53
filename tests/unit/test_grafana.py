"""Dashboards are as their description says, as Grafana reads them, and ask for what exists."""

import itertools
import json
import re

import pytest
import yaml
from promql import DEPLOY, OTHERS, OURS, dashboards, names_in, panel_queries, promtool, rules

from deploy.grafana.dashboards import DASHBOARDS, FOLDER, text_of

BOARDS = dashboards()
CHOSEN = {"$__rate_interval": "1m", '"$instance"': '"a|b"', '"$model"': '".*"', '"$slice"': '".*"'}


def test_files_are_made_of_the_description():
    assert {path.name for path in FOLDER.iterdir()} == {f"{board.name}.json" for board in DASHBOARDS}
    for board in DASHBOARDS:
        assert (FOLDER / f"{board.name}.json").read_text() == text_of(board), "python -m deploy.grafana.dashboards"


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_structure_is_what_schema_version_39_asks_for(board):
    assert board["schemaVersion"] >= 39
    assert board["uid"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", board["uid"])
    assert board["title"]
    assert {"from", "to"} == set(board["time"])
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(one["datasource"] == source for name, one in variables.items() if name != "datasource")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["datasource"] == source
        assert panel["title"]
        assert set(panel["fieldConfig"]) == {"defaults", "overrides"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        for target in panel["targets"]:
            assert target["datasource"] == source
    queries = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    assert set(re.findall(r"\$(?!__)(\w+)", queries)) == set(variables) - {"datasource"}


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_grafanas_own_types_know_every_key(board):
    """What their SDK for schema version 39 and later reads and writes again is what went in."""
    pytest.importorskip("grafana_foundation_sdk", reason="of the extra `dev`: make lock, make setup")
    from grafana_foundation_sdk.cog import encoder, plugins
    from grafana_foundation_sdk.models import dashboard

    plugins.register_default_plugins()
    read = dashboard.Dashboard.from_json(json.loads(json.dumps(board)))
    assert contained(board, json.loads(encoder.JSONEncoder(sort_keys=True).encode(read)))


def contained(ours, theirs):
    """Whether everything in `ours` is in `theirs` too, which may have defaults besides."""
    if isinstance(ours, dict):
        return all(key in theirs and contained(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(contained, ours, theirs))
    return ours == theirs


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_lie_in_the_grid_beside_each_other(board):
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & taken
        taken |= cells


def test_queries_name_what_exists():
    recorded = {rule["record"] for rule in rules("recording")}
    for name, title, query in panel_queries():
        assert names_in(query), (name, title)
        assert names_in(query) <= OURS | OTHERS | recorded, (name, title)
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            for asked in re.findall(r"label_values\((\w+)", json.dumps(variable["query"])):
                assert asked in OURS


def test_prometheus_can_read_every_query(tmp_path):
    queries = [query for _, _, query in panel_queries()]
    for variable, value in CHOSEN.items():
        queries = [query.replace(variable, value) for query in queries]
    groups = [{"name": "g", "rules": [{"record": f"q:{i}", "expr": query} for i, query in enumerate(queries)]}]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", path)


def test_provisioning_points_at_prometheus_and_at_the_dashboards():
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "ctr.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((folder / "dashboards" / "ctr.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")
