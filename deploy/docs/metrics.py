"""Declarations of `ctr.metrics` in, with the rules and dashboards that look at them, a table out: metrics.md.

`python -m deploy.docs.metrics` writes it; a test keeps it up to date.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ctr.metrics import JOIN, MOST, SCORER, TRAINER, Metric

DEPLOY = Path(__file__).parents[1]
WORKERS = {"`ctr train`": TRAINER, "`ctr serve`": SCORER, "`ctr join`": JOIN}


def viewers() -> dict[str, str]:
    """Text of each file that looks at metrics, by what it is called in the table."""
    rules = [DEPLOY / "prometheus" / f"{name}.yml" for name in ("alerts", "recording")]
    pictures = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    return {path.stem: path.read_text() for path in (*rules, *pictures)}


def seen_by(metric: Metric, texts: Mapping[str, str]) -> list[str]:
    """Which of these texts name it."""
    words = [re.compile(rf"(?<![\w:]){name}(?![\w:])") for name in metric.exposed]
    return [title for title, text in texts.items() if any(word.search(text) for word in words)]


def table(metrics: Sequence[Metric], texts: Mapping[str, str]) -> Iterable[str]:
    """Lines of a table."""
    yield "| name | kind, unit | labels | meaning | looked at by |"
    yield "|---|---|---|---|---|"
    for metric in metrics:
        name = metric.exposed[0] if metric.kind != "histogram" else metric.name
        seen = ", ".join(seen_by(metric, texts)) or f"nothing: {metric.unused}"
        unit = ", ".join(filter(None, (metric.kind, metric.measured_in)))
        yield f"| `{name}` | {unit} | {', '.join(metric.labels)} | {metric.help} | {seen} |".replace("|  |", "| |")


HEAD = """\
# Metrics

Made by `python -m deploy.docs.metrics` of `ctr/metrics.py`. *Looked at by*: the alert and recording rules of
`deploy/prometheus`, and the dashboards of `deploy/grafana`. All are read when they are scraped; nothing is counted
for it in the hot loops. A time in seconds since 1970 is a moment: `time() - it` is an age that goes on growing when
the process that tells it hangs. `process_*` (memory, processor time, open files) are the Prometheus client's own.

**Series.** No label grows with users, ads or features. Values that a label has at most, in one process: {labels}; of
what has more partitions the last ones are told together, as `others`. `model` is one in a trainer, and as many in a
scorer as it was started with. So a trainer exposes at most {trainer:,} series, a scorer of one model {scorer:,}, and
{further:,} for each further one; what has not happened (a route, a code, a reason) has none.
"""


def text() -> str:
    """The whole page."""
    texts, one = viewers(), most_series(SCORER, 1)
    head = HEAD.format(
        labels=", ".join(f"{label} {most}" for label, most in sorted(MOST.items())),
        trainer=most_series(TRAINER, 1), scorer=one, further=most_series(SCORER, 2) - one,
    )  # fmt: skip
    tables = ["\n".join(["", f"## {title}", "", *table(metrics, texts), ""]) for title, metrics in WORKERS.items()]
    return head + "".join(tables)


def most_series(metrics: Iterable[Metric], models: int) -> int:
    """Series that a process with these metrics exposes at most, those of the client left out."""
    return sum(metric.most_series(models) for metric in metrics)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(text())
