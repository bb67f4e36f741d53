"""What an operator wants to see goes in, four dashboards for Grafana come out: dashboards/*.json, schema version 39.

`python -m deploy.grafana.dashboards` writes them. ``$by`` in a query stands for the labels that are chosen at the top
of the dashboard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

FOLDER = Path(__file__).with_name("dashboards")
SCHEMA_VERSION = 39
_WIDTH, _PANEL, _STAT = 24, (8, 7), (4, 4)
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_INSTANCE = 'instance=~"$instance"'
_RATE = "[$__rate_interval]"
_SCORING = 'route=~".*(:predict|:rank|/infer)"'
_ALL = 'window="events",slice="all"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes
    ----------
    title : str
    unit : str
        Grafana's name of it.
    queries : dict of str to str
        Legend -> PromQL.
    note : str
        What to look for, shown behind the panel's (i).
    stat : bool
        The last value as a number, instead of lines.
    """

    title: str
    unit: str
    queries: dict[str, str]
    note: str = ""
    stat: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels; `variables` are asked for at the top: name -> query of Grafana's Prometheus data source."""

    name: str
    title: str
    variables: dict[str, str]
    by: str
    panels: tuple[Panel, ...]


TRAINER = Dashboard(
    "trainer", "ctr: trainer", {"instance": 'label_values(ctr_build_info{job="trainer"}, instance)'}, _INSTANCE, (
        Panel("Role", "short", {"{{instance}} {{role}}": "ctr_role{$by} == 1"}, "Writer, or stand-by of one.",
              stat=True),
        Panel("Lease held", "short", {"{{instance}}": "ctr_lease_held{$by}"}, stat=True),
        Panel("Ready", "short", {"{{instance}}": "ctr_ready{$by}"}, "What /readyz says.", stat=True),
        Panel("Source up", "short", {"{{instance}}": "ctr_source_up{$by}"}, stat=True),
        Panel("Fenced, a day", "short", {"{{instance}}": "increase(ctr_fenced_total{$by}[1d])"}, stat=True),
        Panel("Version", "short", {"{{version}} {{model}} {{isa}}": "ctr_build_info{$by}"}, stat=True),
        Panel("Events", "ops", {"{{result}}": f"sum by (result) (rate(ctr_events_total{{$by}}{_RATE}))"}),
        Panel("Lag", "s", {
            "{{instance}}": "instance:ctr_source_lag:seconds{$by}",
            "age of the newest event, {{instance}}": "instance:ctr_event_age:seconds{$by}",
        }, "What is learned now arrived so long ago."),
        Panel("Left to read", "short", {"{{partition}}": "sum by (partition) (ctr_source_lag{$by})"},
              "Records of Kafka, bytes of files. One partition alone: its broker, or a key that is hot."),
        Panel("Time by stage", "percentunit", {"{{stage}}": f"rate(ctr_stage_seconds_total{{$by}}{_RATE})"},
              "A learner near 1 is the limit."),
        Panel("Waiting", "percentunit", {"{{stage}} {{why}}": f"rate(ctr_stage_wait_seconds_total{{$by}}{_RATE})"},
              "Learner starved: wait for events. Learner blocked: wait for the store."),
        Panel("Read ahead", "short", {"for {{stage}}": "ctr_queue_events{$by}"}),
        Panel("Memory", "bytes", {
            "process": 'process_resident_memory_bytes{job="trainer",$by}', "table": "ctr_table_bytes{$by}",
            "messages read ahead": "ctr_queue_bytes{$by}",
        }),
        Panel("Rows", "short", {"held": "ctr_table_rows{$by}", "to commit": "ctr_dirty_rows{$by}"}),
        Panel("Rows that come and go", "ops", {
            "admitted": f"rate(ctr_table_created_total{{$by}}{_RATE})",
            "evicted": f"rate(ctr_table_evicted_total{{$by}}{_RATE})",
            "expired": f"rate(ctr_table_expired_total{{$by}}{_RATE})",
            "refused": f"rate(ctr_table_refused_total{{$by}}{_RATE})",
        }, "Evicted as fast as admitted: the table is full, and the longest unseen leave."),
        Panel("Dead letters", "ops", {"{{reason}}": f"sum by (reason) (rate(ctr_dead_letters_total{{$by}}{_RATE}))"}),
        Panel("Share refused", "percentunit", {"{{instance}}": "instance:ctr_events_refused:ratio_rate5m{$by}"}),
        Panel("Events given up", "short", {"{{partition}}": "sum by (partition) (ctr_source_gap_events_total{$by})"},
              "Since the model was made: the log had lost them, and `--accept-gap` said to go on."),
        Panel("Feature names", "ops", {"{{result}}": f"rate(ctr_names_total{{$by}}{_RATE})"}, "Of `--names`."),
    ),
)  # fmt: skip

SCORER = Dashboard(
    "scorer", "ctr: scorer",
    {
        "instance": 'label_values(ctr_build_info{job="scorer"}, instance)',
        "model": "label_values(ctr_staleness_seconds, model)",
    },
    f'{_INSTANCE},model=~"$model"', (
        Panel("Requests", "reqps",
              {"{{route}} {{code}}": f"sum by (route, code) (rate(ctr_score_requests_total{{{_INSTANCE}}}{_RATE}))"}),
        Panel("Latency", "s", {
            f"p{q} {{{{route}}}}": f"histogram_quantile(0.{q}, sum by (le, route) ("
            f"rate(ctr_score_request_duration_seconds_bucket{{{_INSTANCE},{_SCORING}}}{_RATE})))"
            for q in (50, 99)
        }, "From a request's head to its answer."),
        Panel("Rows scored", "ops", {"{{model}}": f"sum by (model) (rate(ctr_score_rows_total{{$by}}{_RATE}))"}),
        Panel("Bad requests, 1 h", "percentunit", {
            "5xx (0.1 % may be)": "job:ctr_score_errors:ratio_rate1h",
            "over 50 ms (1 % may be)": "job:ctr_score_slow:ratio_rate1h",
        }, "What the error budgets count."),
        Panel("Time served stale, 1 h", "percentunit",
              {"{{model}} (0.5 % may be)": 'model:ctr_stale:ratio_avg1h{model=~"$model"}'},
              "Share of time with parameters older than 10 s."),
        Panel("Age of what is served", "s", {
            "{{model}} {{instance}}": "ctr_staleness_seconds{$by}",
            "newest event, {{model}} {{instance}}": "ctr_event_lag_seconds{$by}",
        }, "All that arrived longer ago is in use."),
        Panel("Cache hits", "percentunit", {
            "{{model}}": f'sum by (model) (rate(ctr_cache_features_total{{$by,result="hit"}}{_RATE})) / '
            f"sum by (model) (rate(ctr_cache_features_total{{$by}}{_RATE}))",
        }, "Features that need not be asked for."),
        Panel("Rows", "short", {
            "held, {{model}} {{instance}}": "ctr_cache_rows{$by}",
            "to read again, {{model}} {{instance}}": "ctr_cache_due_rows{$by}",
        }),
        Panel("Memory", "bytes", {
            "process {{instance}}": f'process_resident_memory_bytes{{job="scorer",{_INSTANCE}}}',
            "rows, {{model}} {{instance}}": "ctr_cache_bytes{$by}",
            "catalogue, {{model}} {{instance}}": "ctr_catalogue_bytes{$by}",
        }),
        Panel("Answered without the store", "ops", {
            "not asked in time, {{model}}": f"sum by (model) (rate(ctr_score_unanswered_total{{$by}}{_RATE}))",
            "rows by prior, {{why}} {{model}}": f"sum by (model, why) (rate(ctr_score_fallbacks_total{{$by}}{_RATE}))",
        }),
        Panel("Features without a row", "percentunit",
              {"{{model}} {{field}}": 'model_field:ctr_features_without_row:ratio_rate15m{model=~"$model"}'},
              "Near 1: a schema that broke."),
        Panel("Answers kept for `ctr join`", "ops",
              {"{{result}}": f"rate(ctr_score_answers_total{{{_INSTANCE}}}{_RATE})"}),
        Panel("Ads that can be ranked by id", "short", {
            "{{model}} {{instance}}": "ctr_catalogue_ads{$by}",
            "left out, {{model}} {{instance}}": "ctr_catalogue_refused{$by}",
        }),
    ),
)  # fmt: skip

QUALITY = Dashboard(
    "quality", "ctr: quality",
    {"instance": "label_values(ctr_window_events, instance)", "slice": "label_values(ctr_window_events, slice)"},
    f'{_INSTANCE},window="events",slice=~"$slice"', (
        Panel("Guard holds a cut back", "short", {"{{instance}}": f"ctr_guard_refusing{{{_INSTANCE}}}"}, stat=True),
        Panel("Guard armed", "short", {"{{instance}}": f"ctr_guard_armed{{{_INSTANCE}}}"}, stat=True),
        Panel("Cuts held back, a day", "short",
              {"{{reason}}": f"increase(ctr_guard_refusals_total{{{_INSTANCE}}}[1d])"}, stat=True),
        Panel("Decisions, a day", "short",
              {"{{decision}}": f"increase(ctr_guard_decisions_total{{{_INSTANCE}}}[1d])"}, stat=True),
        Panel("Log discarded, a day", "short",
              {"{{instance}}": f"increase(ctr_guard_discarded_offsets_total{{{_INSTANCE}}}[1d])"}, stat=True),
        Panel("Changes of the stream, a day", "short",
              {"loss {{direction}}": f"increase(ctr_drift_detections_total{{{_INSTANCE}}}[1d])"}, stat=True),
        Panel("Logloss", "short",
              {"{{view}} {{slice}}": "ctr_logloss{$by}", "{{view}} {{slice}} RMSE": "ctr_rmse{$by}"},
              "Trainer: each event predicted just before it is learned. Served: as answered."),
        Panel("Normalised entropy", "short", {"{{view}} {{slice}}": "ctr_normalized_entropy_ratio{$by}"},
              "Below 1 is better than the base rate alone."),
        Panel("AUC", "short", {"{{view}} {{slice}}": "ctr_auc_ratio{$by}"}),
        Panel("Calibration", "short", {"{{view}} {{slice}}": "ctr_calibration_ratio{$by}"},
              "Sum of predictions over sum of labels: 1 is right."),
        Panel("Calibration error", "percentunit", {"{{view}} {{slice}}": "ctr_calibration_error_ratio{$by}"}),
        Panel("Label less prediction, by bin", "percentunit", {
            "{{view}} bin {{bin}}": f'ctr_calibration_bin_label_ratio{{{_INSTANCE},window="events"}} - '
            f'ctr_calibration_bin_prediction_ratio{{{_INSTANCE},window="events"}}',
        }, "Bins of rising prediction. A slope: too sure, or not sure enough."),
        Panel("Base rate", "percentunit", {"{{view}} {{slice}}": "ctr_base_rate_ratio{$by}"},
              "When it moves, the world does."),
        Panel("Events judged", "short", {"{{view}} {{slice}}": "ctr_window_events{$by}"}),
        Panel("What the guard measures, over its limit", "percentunit",
              {"{{check}}": f"ctr_guard_value{{{_INSTANCE}}} / ctr_guard_limit{{{_INSTANCE}}}"},
              "Beyond 1 a cut is held back."),
        Panel("Loss since the last change", "short", {"{{instance}}": f"ctr_drift_loss{{{_INSTANCE}}}"}),
        Panel("Events since the last change", "short", {"{{instance}}": f"ctr_drift_window_events{{{_INSTANCE}}}"}),
        Panel("Served over trained", "short", {
            "{{model}}": 'model_view:ctr_normalized_entropy:ratio{view="served"} / on (model) '
            'model_view:ctr_normalized_entropy:ratio{view="trainer"}',
        }, "Normalised entropy; above 1 staleness or skew costs quality."),
        Panel("Requests that differ from their events", "percentunit", {
            "{{field}}": f"rate(ctr_skew_fields_total{{{_INSTANCE}}}{_RATE}) / on (instance) group_left () "
            f"rate(ctr_skew_compared_total{{{_INSTANCE}}}{_RATE})",
        }, "By field: what a bidder asked with was not what the event then said."),
        Panel("Answers joined", "ops", {"{{result}}": f"rate(ctr_join_answers_total{{{_INSTANCE}}}{_RATE})"},
              "Expired: no event came of them within `--wait`."),
        Panel("Answers waiting for their event", "short", {"{{instance}}": f"ctr_join_waiting{{{_INSTANCE}}}"}),
        Panel("Age of the parameters when they answered", "s",
              {"{{instance}}": f"ctr_join_staleness_seconds{{{_INSTANCE}}}"}),
    ),
)  # fmt: skip

STORE = Dashboard(
    "store", "ctr: store", {"instance": "label_values(ctr_store_up, instance)"}, _INSTANCE, (
        Panel("Store up", "short", {"{{job}} {{instance}} {{model}}": "ctr_store_up{$by}"}, stat=True),
        Panel("Writers", "short", {"{{model}}": "model:ctr_writers:count"}, "One for each model.", stat=True),
        Panel("Stand-bys", "short", {"{{model}}": "model:ctr_standbys:count"}, stat=True),
        Panel("Newest snapshot", "s", {"{{instance}}": "time() - (ctr_snapshot_last_seconds{$by} > 0)"}, stat=True),
        Panel("Snapshots, a day", "short",
              {"{{result}}": "sum by (result) (increase(ctr_snapshots_total{$by}[1d]))"}, stat=True),
        Panel("Chain breaks, a day", "short", {"{{model}} {{instance}}": "increase(ctr_chain_breaks_total{$by}[1d])"},
              "Times a scorer had to read all its rows again.", stat=True),
        Panel("Commits", "ops", {"{{instance}}": f"rate(ctr_commits_total{{$by}}{_RATE})"}),
        Panel("Rows committed", "ops", {
            "written, {{instance}}": f"rate(ctr_commit_rows_total{{$by}}{_RATE})",
            "dropped, {{instance}}": f"rate(ctr_commit_gone_total{{$by}}{_RATE})",
        }, "commit.rows_per_s is the ceiling."),
        Panel("Retries", "ops", {"{{instance}}": f"rate(ctr_commit_retries_total{{$by}}{_RATE})"}),
        Panel("Age of the last commit", "s", {
            "as the trainer says, {{instance}}": "time() - (ctr_commit_last_seconds{$by} > 0)",
            "in use by {{instance}} {{model}}": "ctr_commit_age_seconds{$by}",
        }),
        Panel("Commit", "s", {
            "every, {{instance}}": "ctr_commit_interval_seconds{$by}",
            "under way for, {{instance}}": "ctr_commit_under_way_seconds{$by}",
        }),
        Panel("Rows read again", "ops", {"{{model}} {{instance}}": f"rate(ctr_cache_rereads_total{{$by}}{_RATE})"}),
        Panel("Redis: memory", "bytes", {
            "used, {{server}}": "max by (server) (ctr_redis_memory_bytes{$by})",
            "maxmemory, {{server}}": "max by (server) (ctr_redis_memory_limit_bytes{$by})",
            "largest output buffer, {{server}}": "max by (server) (ctr_redis_output_buffer_bytes{$by})",
        }),
        Panel("Redis: replication", "bytes", {
            "not acknowledged, {{server}}": "max by (server) (ctr_redis_behind_bytes{$by})",
            "backlog, {{server}}": "max by (server) (ctr_redis_backlog_bytes{$by})",
        }, "What is not acknowledged must stay below the backlog, or the replica needs a full copy."),
        Panel("Redis: replicas", "short", {
            "{{server}}": "max by (server) (ctr_redis_replicas{$by})",
            "cut off, {{server}}": f"max by (server) (rate(ctr_redis_clients_cut_total{{$by}}{_RATE}))",
        }),
    ),
)  # fmt: skip

DASHBOARDS = (TRAINER, SCORER, QUALITY, STORE)


def _panel(panel: Panel, number: int, at: tuple[int, int], by: str) -> dict[str, Any]:
    width, height = _STAT if panel.stat else _PANEL
    last = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "textMode": "value_and_name"}
    lines = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    defaults: dict[str, Any] = {"unit": panel.unit}
    if not panel.stat:
        defaults["custom"] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.note,
        "gridPos": {"x": at[0], "y": at[1], "w": width, "h": height},
        "datasource": _DATASOURCE,
        "targets": [
            {"refId": letter, "expr": query.replace("$by", by), "legendFormat": legend, "datasource": _DATASOURCE}
            for letter, (legend, query) in zip(ascii_uppercase, panel.queries.items(), strict=False)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": last if panel.stat else lines,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def model_of(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    x = y = row = 0
    for panel in dashboard.panels:
        width, height = _STAT if panel.stat else _PANEL
        if x + width > _WIDTH or (row and height != row):
            x, y = 0, y + row
        panels.append(_panel(panel, len(panels) + 1, (x, y), dashboard.by))
        x, row = x + width, height
    chosen = {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "uid": f"ctr-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["ctr"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["ctr"], "title": "ctr", "keepTime": True}],
        "annotations": {"list": []},
        "templating": {"list": [chosen, *(_variable(*one) for one in dashboard.variables.items())]},
        "panels": panels,
    }


def text_of(dashboard: Dashboard) -> str:
    """The same as a file."""
    return json.dumps(model_of(dashboard), indent=1) + "\n"


if __name__ == "__main__":
    for made in DASHBOARDS:
        (FOLDER / f"{made.name}.json").write_text(text_of(made))
