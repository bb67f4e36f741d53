"""Every metric, declared once: name, kind, unit and meaning. Values are read from their owner at scrape time.

Nothing is incremented in a hot loop: a worker hands over a function that returns its present numbers, and a collector
turns them into Prometheus families when somebody asks. Times at which something happened are exported as such: an age
would stand still with the process that tells it. `deploy/docs/metrics.md` is made of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

Value = float | Mapping[tuple[str, ...], float]
"""A number, or one for each combination of label values."""

DURATIONS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of a histogram's buckets."""

MOST = {
    "bin": 32, "check": 8, "code": 12, "decision": 2, "direction": 2, "field": 64, "isa": 1, "model": 1,
    "partition": 256, "reason": 16, "result": 4, "role": 2, "route": 40, "server": 64, "slice": 69, "stage": 5,
    "version": 1, "view": 2, "why": 3, "window": 2,
}  # fmt: skip
"""Values that a label has at most, in one process; of ``model`` for each model that a scorer was started with. None of
them grows with users, ads or features. What has more partitions tells of the rest together (`bounded`)."""

_UNITS = ("seconds", "bytes", "ratio")


@dataclass(frozen=True, slots=True)
class Metric:
    """A declaration.

    Attributes
    ----------
    name : str
        Ends with the unit where it is seconds, bytes or a ratio.
    kind : str
        A counter is exposed with ``_total`` appended, as Prometheus wants it.
    help : str
    labels : tuple of str
        Each of them in `MOST`.
    unit : str
        Where neither the name nor the meaning says it.
    unused : str
        Why no rule and no dashboard of ours looks at it; empty where one does.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    unused: str = ""

    @property
    def measured_in(self) -> str:
        """Unit: that of the name, else what is counted; of a state 0 or 1."""
        last = self.name.rpartition("_")[2]
        state = "0 or 1" if self.kind == "gauge" and self.help.startswith("1") else ""
        return self.unit or state or (last if last in _UNITS or last.endswith("s") else "")

    @property
    def exposed(self) -> tuple[str, ...]:
        """Names of its series in Prometheus."""
        ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
        return tuple(self.name + end for end in ends[self.kind])

    def most_series(self, models: int = 1) -> int:
        """Series that one process exposes at most."""
        each = len(DURATIONS_S) + 3 if self.kind == "histogram" else 1
        return each * prod(models if label == "model" else MOST[label] for label in self.labels)


_WINDOW = ("view", "window", "slice")
QUALITY = (
    Metric("ctr_window_events", "gauge", "Events in the quality window.", _WINDOW),
    Metric("ctr_logloss", "gauge", "Progressive logloss over the window, nats; NaN with squared loss.", _WINDOW,
           unit="nats"),
    Metric("ctr_normalized_entropy_ratio", "gauge", "Logloss over the entropy of the base rate; below 1 learns.",
           _WINDOW),
    Metric("ctr_auc_ratio", "gauge", "Area under the ROC curve over the window; NaN with squared loss.", _WINDOW),
    Metric("ctr_calibration_ratio", "gauge", "Sum of predictions over sum of labels in the window.", _WINDOW),
    Metric("ctr_calibration_error_ratio", "gauge", "Expected calibration error over the window: mean distance of "
           "prediction and label, bins of equal weight; NaN with squared loss.", _WINDOW),
    Metric("ctr_base_rate_ratio", "gauge", "Share of positive labels in the window; their mean with squared loss.",
           _WINDOW),
    Metric("ctr_rmse", "gauge", "Root of the mean squared error of predictions made before learning, over the window.",
           _WINDOW, unit="of labels"),
    Metric("ctr_calibration_bin_prediction_ratio", "gauge", "Mean prediction of a bin of the window's events, "
           "by rising "
           "prediction; bins of about equal weight.", ("view", "window", "bin")),
    Metric("ctr_calibration_bin_label_ratio", "gauge", "Share of positive labels in that bin.",
           ("view", "window", "bin")),
    Metric("ctr_calibration_bin_weight", "gauge", "Events in that bin, each counted with its weight.",
           ("view", "window", "bin"),
           unit="events", unused="how much a bin of the calibration plot of the live page is worth"),
)
"""How good the predictions are. `view`: trainer (made just before learning) or served (as answered). `window`: events
(the last `--window`) or time (the last ``quality.window_s`` seconds). `slice`: all, or field=value of the fields in
``quality.slices``, other values of a field together as field=*. Events count by their weight, held-out ones as 1."""

GUARD = (
    Metric("ctr_guard_refusing", "gauge", "1 while a cut is held back and nothing is learned: see `ctr guard`."),
    Metric("ctr_guard_refusals", "counter", "Cuts held back, by what spoke against them.", ("reason",), unit="cuts"),
    Metric("ctr_guard_decisions", "counter", "What operators decided about cuts held back: resume, discard.",
           ("decision",)),
    Metric("ctr_guard_discarded_offsets", "counter", "Log that was skipped by decision: records (Kafka) or bytes "
           "(files).", unit="records or bytes"),
    Metric("ctr_guard_armed", "gauge", "1 once so much was learned that quality can be judged."),
    Metric("ctr_guard_value", "gauge", "What the guard last measured, by check.", ("check",), unit="of the check"),
    Metric("ctr_guard_limit", "gauge", "The value of a check beyond which a cut is held back.", ("check",),
           unit="of the check"),
    Metric("ctr_drift_detections", "counter", "Times the mean logloss (squared error) was found to have changed: up is "
           "worse, down is better.", ("direction",)),
    Metric("ctr_drift_last_seconds", "gauge", "When that was last found, seconds since 1970; 0: never.",
           unused="that there was one is alerted by the counter; this is for the live page"),
    Metric("ctr_drift_window_events", "gauge", "Events over which the mean loss has not changed."),
    Metric("ctr_drift_loss", "gauge", "Mean logloss (squared error) over those events.", unit="nats"),
)
"""What keeps a bad cut from being served, and what tells that the world has changed."""

TRAINER = (
    Metric("ctr_events", "counter", "Events by what became of them.", ("result",)),
    Metric("ctr_dead_letters", "counter", "Events refused, by reason.", ("reason",)),
    Metric("ctr_source_up", "gauge", "1 while the source answers, 0 while it does not."),
    Metric("ctr_source_lag", "gauge", "What is left to read: records (Kafka) or bytes (files).", ("partition",),
           unit="records or bytes"),
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
    Metric("ctr_commit_retries", "counter", "Attempts to commit that had to be repeated.", unit="attempts"),
    Metric("ctr_fenced", "counter", "Times this process lost the model to another writer: its cut was refused.",
           unit="times"),
    Metric("ctr_commit_rows", "counter", "Rows written to the store."),
    Metric("ctr_commit_gone", "counter", "Rows dropped from the store.", unit="rows"),
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
           ("server",), unit="clients"),
    Metric("ctr_table_rows", "gauge", "Features held in the trainer's table."),
    Metric("ctr_table_bytes", "gauge", "Memory of the trainer's table."),
    Metric("ctr_table_created", "counter", "Rows made for features not held before.", unit="rows"),
    Metric("ctr_table_evicted", "counter", "Rows dropped, longest not seen, to keep the table within its bound.",
           unit="rows"),
    Metric("ctr_table_expired", "counter", "Rows not seen for their ttl: dropped, or begun anew.", unit="rows"),
    Metric("ctr_table_refused", "counter", "New features for which the whole table has no room.", unit="rows"),
    Metric("ctr_dirty_rows", "gauge", "Rows learned since the last commit."),
    Metric("ctr_names", "counter", "Feature names by what became of them: written, evicted, failed.", ("result",)),
    Metric("ctr_snapshots", "counter", "Snapshots by what became of them: taken, failed.", ("result",)),
    Metric("ctr_snapshot_last_seconds", "gauge", "When the newest snapshot was begun, seconds since 1970; 0: none."),
    *QUALITY,
    *GUARD,
    Metric("ctr_role", "gauge", "1 for what this process is: writer, or standby of one.", ("role",)),
    Metric("ctr_build_info", "gauge", "1, with the program's version, its model and its kernels' instruction set.",
           ("version", "model", "isa")),
    Metric("ctr_lease_held", "gauge", "1 while this process holds the model's lease, 0 while it does not."),
    Metric("ctr_ready", "gauge", "1 while /readyz says 200, 0 while it does not."),
)
"""What `ctr train` exposes."""

SCORER = (
    Metric("ctr_score_requests", "counter", "HTTP requests answered.", ("route", "code")),
    Metric("ctr_score_request_duration_seconds", "histogram", "From a request's head to its answer.",
           ("route", "code")),
    Metric("ctr_score_rows", "counter", "Rows scored.", ("model",)),
    Metric("ctr_score_unanswered", "counter", "Requests scored from what was held: no reply from the store in time.",
           ("model",), unit="requests"),
    Metric("ctr_score_fallbacks", "counter", "Rows given the configured prior: while starting, past the deadline, or "
           "nothing known of them in time.", ("model", "why"), unit="rows"),
    Metric("ctr_field_features", "counter", "Features asked for, by field; of a ranking's candidates a sample.",
           ("model", "field")),
    Metric("ctr_field_features_without_row", "counter", "Those of them without a row: a share near 1 is a schema that "
           "broke.", ("model", "field"), unit="features"),
    Metric("ctr_cache_features", "counter", "Features asked for, by whether they were known here.",
           ("model", "result")),
    Metric("ctr_cache_rows", "gauge", "Rows held.", ("model",)),
    Metric("ctr_cache_bytes", "gauge", "Memory of the rows held and their index.", ("model",)),
    Metric("ctr_cache_due_rows", "gauge", "Rows held that have changed and are not yet read again.", ("model",)),
    Metric("ctr_cache_rereads", "counter", "Rows read again because they had changed.", ("model",)),
    Metric("ctr_catalogue_ads", "gauge", "Ads that can be ranked by id.", ("model",)),
    Metric("ctr_catalogue_bytes", "gauge", "Memory of what is kept of them.", ("model",)),
    Metric("ctr_catalogue_refused", "gauge", "Ads left out: unreadable, or beyond the bound.", ("model",), unit="ads"),
    Metric("ctr_chain_breaks", "counter", "Times the chain of commits broke and all rows were read again.", ("model",)),
    Metric("ctr_staleness_seconds", "gauge", "All that arrived longer ago is in use; +Inf before a commit.",
           ("model",)),
    Metric("ctr_event_lag_seconds", "gauge", "Age of the newest event in use, by its own time; +Inf before one.",
           ("model",)),
    Metric("ctr_commit_age_seconds", "gauge", "Age of the last commit in use; +Inf before one.", ("model",)),
    Metric("ctr_store_up", "gauge", "1 while the model can be read from the store, 0 while it cannot.", ("model",)),
    Metric("ctr_score_answers", "counter", "Rows kept for `ctr join`, by what became of them: written, without_id, or "
           "requests dropped.", ("result",), unit="rows"),
    *(metric for metric in TRAINER if metric.name == "ctr_build_info"),
)
"""What `ctr serve` exposes."""

JOIN = (
    Metric("ctr_join_answers", "counter", "Answers by what became of them: joined with their event, expired without "
           "one, evicted by newer ones, unreadable.", ("result",)),
    Metric("ctr_join_waiting", "gauge", "Answers whose event has not come.", unit="answers"),
    Metric("ctr_join_staleness_seconds", "gauge", "How old the parameters were of the answer that was joined last."),
    Metric("ctr_skew_compared", "counter", "Joined events whose features were compared with those of their request.",
           unit="events"),
    Metric("ctr_skew_fields", "counter", "Those of them in which the request had other features, by field.",
           ("field",), unit="events"),
    *QUALITY,
    *(metric for metric in TRAINER if metric.name == "ctr_build_info"),
)
"""What `ctr join` exposes."""


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
    """A registry with these metrics, and what the client tells of the process (memory, processor time, open files)."""
    made = CollectorRegistry()
    made.register(SnapshotCollector(metrics, read))
    ProcessCollector(registry=made)
    return made


def bounded(values: Mapping[str, float], label: str) -> dict[tuple[str, ...], float]:
    """Values of a one-label metric, as many as `MOST` allows: where there are more, the last ones are ``others``.

    Examples
    --------
    >>> len(bounded({f"ads:{n}": 1.0 for n in range(10_000)}, "partition"))
    256
    """
    names, most = sorted(values), MOST[label]
    if len(names) <= most:
        return {(name,): float(values[name]) for name in names}
    own, rest = names[: most - 1], names[most - 1 :]
    return {**{(name,): float(values[name]) for name in own}, ("others",): float(sum(values[name] for name in rest))}
