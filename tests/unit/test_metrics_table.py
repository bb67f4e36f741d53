"""deploy/docs/metrics.md is of today, and no metric is there that nobody looks at without a reason."""

from promql import OURS, names_in, panel_queries, rules

from ctr.metrics import SCORER, TRAINER
from deploy.docs import metrics as documented


def test_the_table_is_up_to_date():
    path = documented.DEPLOY / "docs" / "metrics.md"
    assert path.read_text() == documented.text(), "python -m deploy.docs.metrics"


def test_a_metric_is_looked_at_or_says_why_not():
    queries = [rule["expr"] for name in ("alerts", "recording") for rule in rules(name)]
    seen = set().union(*map(names_in, queries), *(names_in(query) for _, _, query in panel_queries())) & OURS
    for metric in {*TRAINER, *SCORER}:
        assert bool(seen & set(metric.exposed)) == (not metric.unused), metric.name
        assert bool(documented.seen_by(metric, documented.viewers())) == (not metric.unused), metric.name
