"""What `tests/benchmarks/end_to_end.py` measured (end_to_end.json) in, microseconds an event by stage out: stages.svg.

`make pictures` draws it, with matplotlib of the extra `docs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from deploy.docs.plots import save, style

FOLDER = Path(__file__).parent
LANES = (("fetch",), ("scan",), ("look-up", "update", "pack"), ("commit",))
"""Stages that run one after the other stand in one lane; lanes run beside each other."""
WHERE = ("reader", "scan threads", "learner", "committer")
COLOURS = {"fetch": "#9c6b4e", "scan": "#6cc5b0", "look-up": "#97bbf5", "update": "#4269d0", "pack": "#a463f2",
           "commit": "#ff725c"}  # fmt: skip


def us_an_event(line: dict[str, Any], lookup_share: float) -> dict[str, float]:
    """Microseconds of work an event by stage; learning in its two parts."""
    spent = {stage: 1e6 * seconds / line["events"] for stage, seconds in line["busy_s"].items()}
    learn = spent.pop("learn")
    return spent | {"look-up": lookup_share * learn, "update": (1 - lookup_share) * learn}


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture; the same bytes whenever the record is the same."""
    style()
    lines = record["lines"]
    figure, axes = plt.subplots(len(lines), 1, figsize=(8.2, 1.9 * len(lines)), sharex=True, layout="constrained")
    for panel, line in zip([axes] if len(lines) == 1 else axes, lines, strict=True):
        spent = us_an_event(line, record["lookup_share"])
        for lane, stages in enumerate(LANES):
            left = 0.0
            for stage in stages:
                panel.barh(lane, spent[stage], left=left, color=COLOURS[stage], edgecolor="white", height=0.7)
                is_wide, is_roomy = spent[stage] > 0.35, spent[stage] > 0.6
                panel.text(left + spent[stage] / 2 if is_wide else left + spent[stage] + 0.03, lane,
                           f"{stage}{' ' if is_roomy or not is_wide else chr(10)}{spent[stage]:.1f}", va="center",
                           ha="center" if is_wide else "left", color="white" if is_wide else "black",
                           fontsize=8 if is_roomy or not is_wide else 6, linespacing=1.0)  # fmt: skip
                left += spent[stage]
        wall = 1e6 / line["events_per_s"]
        panel.axvline(wall, color="#555", linewidth=1, linestyle="--")
        panel.text(wall, -0.75, f" {wall:.1f} us between two events", color="#555", fontsize=8, va="center")
        panel.set_yticks(range(len(LANES)), WHERE)
        panel.invert_yaxis()
        panel.set_ylim(len(LANES) - 0.5, -1.1)
        ceiling = f"at most {line['ceiling']:,} rows/s" if line["ceiling"] else "no ceiling on rows/s"
        panel.set_title(f"{ceiling}: {line['events_per_s']:,.0f} events/s, a cut every {line['interval_s']:.1f} s")
    panel.set_xlabel("us of work an event; lanes run beside each other, on two cores together with Kafka and Redis")
    save(figure, path)


if __name__ == "__main__":
    if (FOLDER / "end_to_end.json").exists():
        draw(json.loads((FOLDER / "end_to_end.json").read_text()), FOLDER / "stages.svg")
    else:
        print("no picture of the stages: python tests/benchmarks/end_to_end.py --json deploy/docs/end_to_end.json")
