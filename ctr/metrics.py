"""Every metric, declared once: name, kind, unit and meaning. Values are read from their owner at scrape time.

Nothing is incremented in a hot loop: a worker hands over a function that returns its present numbers, and a collector
turns them into Prometheus families when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

Value = float | Mapping[tuple[str, ...], float]
"""A number, or one for each combination of label values."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A declaration. Counters are exposed with ``_total`` appended, as Prometheus wants it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


TRAINER = (
    Metric("ctr_events", "counter", "Events by what became of them.", ("result",)),
    Metric("ctr_dead_letters", "counter", "Events refused, by reason.", ("reason",)),
    Metric("ctr_source_up", "gauge", "1 while the source answers, 0 while it does not."),
    Metric("ctr_source_lag", "gauge", "What is left to read: records (Kafka) or bytes (files).", ("partition",)),
    Metric("ctr_source_gap_events", "counter", "Events given up, since the model was made: the log had lost them, and "
           "--accept-gap said to go on.", ("partition",)),
    Metric("ctr_event_watermark_seconds", "gauge", "Newest event time learned, seconds since 1970."),
    Metric("ctr_arrival_watermark_seconds", "gauge", "All that arrived before is learned, seconds since 1970."),
    Metric("ctr_stage_seconds", "counter", "Work by stage: fetch, scan, learn, pack, commit.", ("stage",)),
    Metric("ctr_stage_wait_seconds", "counter", "Time a stage was starved of input or blocked by the next.",
           ("stage", "why")),
    Metric("ctr_queue_events", "gauge", "Events read ahead, by the stage that they wait for.", ("stage",)),
    Metric("ctr_queue_bytes", "gauge", "Bytes of the messages read ahead."),
    Metric("ctr_commits", "counter", "Commits acknowledged by the store."),
    Metric("ctr_commit_retries", "counter", "Attempts to commit that had to be repeated."),
    Metric("ctr_commit_rows", "counter", "Rows written to the store."),
    Metric("ctr_commit_gone", "counter", "Rows dropped from the store."),
    Metric("ctr_commit_last_seconds", "gauge", "Wall time of the last acknowledged commit, seconds since 1970."),
    Metric("ctr_commit_interval_seconds", "gauge", "Time between the last two cuts: where the pace has settled."),
    Metric("ctr_commit_under_way_seconds", "gauge", "Age of the cut that is being sent, 0 where there is none."),
    Metric("ctr_store_up", "gauge", "1 while the store answers, 0 while it does not."),
    Metric("ctr_redis_memory_bytes", "gauge", "Memory used by the server.", ("server",)),
    Metric("ctr_redis_memory_limit_bytes", "gauge", "Its maxmemory; 0: none.", ("server",)),
    Metric("ctr_redis_replicas", "gauge", "Replicas connected to it.", ("server",)),
    Metric("ctr_redis_behind_bytes", "gauge", "What its last replica has not acknowledged.", ("server",)),
    Metric("ctr_redis_backlog_bytes", "gauge", "Size of its replication backlog.", ("server",)),
    Metric("ctr_redis_output_buffer_bytes", "gauge", "Its largest output buffer of late, or that of its replicas.",
           ("server",)),
    Metric("ctr_redis_clients_cut", "counter", "Clients it cut off for their output buffers (Redis 7.2 and newer).",
           ("server",)),
    Metric("ctr_table_rows", "gauge", "Features held in the trainer's table."),
    Metric("ctr_table_bytes", "gauge", "Memory of the trainer's table."),
    Metric("ctr_table_created", "counter", "Rows made for features not held before."),
    Metric("ctr_table_evicted", "counter", "Rows dropped, longest not seen, to keep the table within its bound."),
    Metric("ctr_table_expired", "counter", "Rows not seen for their ttl: dropped, or begun anew."),
    Metric("ctr_table_refused", "counter", "New features for which the whole table has no room."),
    Metric("ctr_dirty_rows", "gauge", "Rows learned since the last commit."),
    Metric("ctr_names", "counter", "Feature names by what became of them: written, evicted, failed.", ("result",)),
    Metric("ctr_snapshots", "counter", "Snapshots by what became of them: taken, failed.", ("result",)),
    Metric("ctr_snapshot_last_seconds", "gauge", "When the newest snapshot was begun, seconds since 1970; 0: none."),
    Metric("ctr_window_events", "gauge", "Events in the quality window."),
    Metric("ctr_logloss", "gauge", "Progressive logloss over the window, nats; NaN with squared loss."),
    Metric("ctr_normalized_entropy_ratio", "gauge", "Logloss over the entropy of the base rate; below 1 learns."),
    Metric("ctr_auc_ratio", "gauge", "Area under the ROC curve over the window; NaN with squared loss."),
    Metric("ctr_calibration_ratio", "gauge", "Sum of predictions over sum of labels in the window."),
    Metric("ctr_base_rate_ratio", "gauge", "Share of positive labels in the window; their mean with squared loss."),
    Metric("ctr_rmse", "gauge", "Root of the mean squared error of predictions made before learning, over the window."),
    Metric("ctr_role", "gauge", "1 for what this process is: writer, or standby of one.", ("role",)),
    Metric("ctr_build_info", "gauge", "1, with the program's version, its model and its kernels' instruction set.",
           ("version", "model", "isa")),
)
"""What `ctr train` exposes."""

SCORER = (
    Metric("ctr_score_requests", "counter", "HTTP requests answered.", ("route", "code")),
    Metric("ctr_score_request_duration_seconds", "histogram", "From a request's head to its answer.", ("route",)),
    Metric("ctr_score_rows", "counter", "Rows scored.", ("model",)),
    Metric("ctr_score_unanswered", "counter", "Requests scored from what was held: no reply from the store in time.",
           ("model",)),
    Metric("ctr_score_fallbacks", "counter", "Rows given the configured prior: while starting, past the deadline, or "
           "nothing known of them in time.", ("model", "why")),
    Metric("ctr_field_features", "counter", "Features asked for, by field; of a ranking's candidates a sample.",
           ("model", "field")),
    Metric("ctr_field_features_without_row", "counter", "Those of them without a row: a share near 1 is a schema that "
           "broke.", ("model", "field")),
    Metric("ctr_cache_features", "counter", "Features asked for, by whether they were known here.",
           ("model", "result")),
    Metric("ctr_cache_rows", "gauge", "Rows held.", ("model",)),
    Metric("ctr_cache_bytes", "gauge", "Memory of the rows held and their index.", ("model",)),
    Metric("ctr_cache_due_rows", "gauge", "Rows held that have changed and are not yet read again.", ("model",)),
    Metric("ctr_cache_rereads", "counter", "Rows read again because they had changed.", ("model",)),
    Metric("ctr_catalogue_ads", "gauge", "Ads that can be ranked by id.", ("model",)),
    Metric("ctr_catalogue_bytes", "gauge", "Memory of what is kept of them.", ("model",)),
    Metric("ctr_catalogue_refused", "gauge", "Ads left out: unreadable, or beyond the bound.", ("model",)),
    Metric("ctr_chain_breaks", "counter", "Times the chain of commits broke and all rows were read again.", ("model",)),
    Metric("ctr_staleness_seconds", "gauge", "All that arrived longer ago is in use; +Inf before a commit.",
           ("model",)),
    Metric("ctr_event_lag_seconds", "gauge", "Age of the newest event in use, by its own time; +Inf before one.",
           ("model",)),
    Metric("ctr_commit_age_seconds", "gauge", "Age of the last commit in use; +Inf before one.", ("model",)),
    Metric("ctr_store_up", "gauge", "1 while the model can be read from the store, 0 while it cannot.", ("model",)),
    *(metric for metric in TRAINER if metric.name == "ctr_build_info"),
)
"""What `ctr serve` exposes."""


class SnapshotCollector(Collector):
    """Turns the numbers that `read` returns into families.

    Parameters
    ----------
    metrics : sequence of Metric
        What may be exposed; a value without a declaration is an error.
    read : callable
        Returns name -> value; called at each scrape, from the HTTP thread.
    """

    def __init__(self, metrics: Sequence[Metric], read: Callable[[], Mapping[str, Value]]) -> None:
        self._metrics = {metric.name: metric for metric in metrics}
        self._read = read

    def describe(self) -> Iterable[Family]:
        """Nothing in advance: values need not be there yet when the collector is registered."""
        return ()

    def collect(self) -> Iterator[Family]:
        """One family for each number."""
        for name, value in self._read().items():
            metric = self._metrics[name]
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(name, metric.help, labels=metric.labels)
            for labels, number in value.items() if isinstance(value, Mapping) else [((), value)]:
                family.add_metric(labels, number)
            yield family


def registry(metrics: Sequence[Metric], read: Callable[[], Mapping[str, Value]]) -> CollectorRegistry:
    """A registry with these metrics alone."""
    made = CollectorRegistry()
    made.register(SnapshotCollector(metrics, read))
    return made
