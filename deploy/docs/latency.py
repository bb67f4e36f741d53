"""What `tests/benchmarks/serving_http.py --latency` measured (latency.json): latency against load as latency.svg.

`make pictures` draws it, with matplotlib of the extra `docs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FormatStrFormatter

from deploy.docs.plots import save, style

FOLDER = Path(__file__).parent
LINES = (
    ("predict, one row", "predict, {committed:,} rows/s committed meanwhile", "#4269d0"),
    ("predict, no commits", "predict, nothing committed", "#6cc5b0"),
    ("echo", "an echo under the same server", "#9498a0"),
)


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture; the same bytes whenever the record is the same."""
    style()
    figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.2), sharex=True, layout="constrained")
    loads = record["loads"]
    rates = [at["requests_per_s"] for at in loads]
    for which, (panel, part) in enumerate(zip(panels, ("median", "99th percentile"), strict=True)):
        for name, label, colour in LINES:
            label = label.format(committed=record["committed_rows_per_s"])
            panel.plot(rates, [at[name][which] for at in loads], color=colour, label=label, marker="o", markersize=3)
        panel.set_title(f"{part}, ms")
        panel.set_xlabel("requests/s")
        panel.set_xlim(0)
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.grid(axis="y", color="#ddd", linewidth=0.6)
    panels[0].legend(frameon=False, fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    if (FOLDER / "latency.json").exists():
        draw(json.loads((FOLDER / "latency.json").read_text()), FOLDER / "latency.svg")
    else:
        print("no picture of latencies: python tests/benchmarks/serving_http.py --latency deploy/docs/latency.json")
