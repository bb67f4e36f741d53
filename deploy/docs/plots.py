"""How the documentation's plots look. Saved twice, they are the same bytes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.use("svg")


def style() -> None:
    """Of all that is drawn from here on."""
    mpl.rcParams |= {
        "svg.hashsalt": "ctr", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 10, "lines.linewidth": 1.6,
    }  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Without the date."""
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
