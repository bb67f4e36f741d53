"""Functions of `ctr.events.transforms` in, what they make of numbers, times and pairs out: transforms.svg.

`make pictures` draws it, with matplotlib of the extra `docs`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ctr.events.transforms import edge_bin, hour, log_bin, spline_weights, weekday
from deploy.docs.plots import save, style

EDGES = (0.0, 2.0, 5.0, 6.0, 10.0)
COLOURS = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#a463f2", "#9c6b4e", "#97bbf5"]
DAY_S = 86400.0
Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def draw(path: Path) -> None:
    """Write the picture; the same bytes whenever the transforms are the same."""
    style()
    figure, axes = plt.subplots(3, 2, figsize=(9.5, 8.6), layout="constrained")
    for one, panel in zip((log_bins, bins, basis, response, clock, cross), axes.flat, strict=True):
        one(panel)
    save(figure, path)


def log_bins(axes: Axes) -> None:
    """Bins that widen with the number."""
    x = np.linspace(-30, 100, 2601)
    for colour, bins_per_e in zip(COLOURS, (1.0, 3.0), strict=False):
        axes.step(x, [int(log_bin(v, bins_per_e)) for v in x.tolist()], where="post", color=colour,
                  label=f"bins_per_e = {bins_per_e:g}")  # fmt: skip
    axes.set(title='transform = "log": sign(x) floor(bins_per_e ln(1 + |x|))', xlabel="x", ylabel="bin")
    axes.legend(frameon=False)


def bins(axes: Axes) -> None:
    """A bin between each two edges, closed below."""
    x = np.linspace(-2, 12, 1401)
    axes.step(x, [int(edge_bin(v, EDGES)) for v in x.tolist()], where="post", color=COLOURS[0])
    for edge in EDGES:
        axes.axvline(edge, color="#bbb", linewidth=0.8, linestyle=":")
    axes.set(title=f'transform = "bins", edges = {[int(e) for e in EDGES]}: edges <= x', xlabel="x", ylabel="bin")


def _weights(x: Numbers, degree: int) -> Matrix:
    out = np.zeros((len(x), len(EDGES) - 1 + degree))
    for row, value in zip(out, x.tolist(), strict=True):
        for name, weight in spline_weights(value, EDGES, degree).items():
            row[int(name[1:])] = weight
    return out


def basis(axes: Axes) -> None:
    """The features of a number and their values."""
    x = np.linspace(-1, 11, 1201)
    for i, values in enumerate(_weights(x, 3).T):
        axes.plot(x, values, color=COLOURS[i % len(COLOURS)], label=f"b{i}")
    for edge in EDGES:
        axes.axvline(edge, color="#bbb", linewidth=0.8, linestyle=":")
    axes.set(title='transform = "bspline", degree = 3: B[i, 3](x)', xlabel="x", ylabel="value", ylim=(0, 1.4))
    axes.legend(frameon=False, ncols=4, fontsize=8, loc="upper center")


def response(axes: Axes) -> None:
    """What one linear weight a feature can draw: least squares to a curve."""
    x = np.linspace(EDGES[0], EDGES[-1], 501)
    wanted = -3 + 1.6 * np.exp(-((x - 4) ** 2) / 4) + 0.06 * x
    one_hot = np.eye(len(EDGES) + 1)[[int(edge_bin(v, EDGES)) for v in x.tolist()]]
    axes.plot(x, wanted, color="#999", linewidth=4, alpha=0.5, label="true logit")
    for colour, label, design in (
        (COLOURS[0], "bins", one_hot), (COLOURS[1], "bspline, degree 1", _weights(x, 1)),
        (COLOURS[2], "bspline, degree 3", _weights(x, 3)),
    ):  # fmt: skip
        axes.plot(x, design @ np.linalg.lstsq(design, wanted, rcond=None)[0], color=colour, label=label)
    axes.set(title="what a weight a feature can learn, same edges", xlabel="x", ylabel="logit")
    axes.legend(frameon=False, fontsize=8)


def _through_a_week(part: Callable[[float, float], str], offset_h: float) -> tuple[list[float], list[int]]:
    monday_s = 4 * DAY_S  # 1970-01-05T00:00:00Z
    days = np.arange(0, 7, 1 / 96).tolist()
    return days, [int(part(monday_s + day * DAY_S, offset_h)) for day in days]


def clock(axes: Axes) -> None:
    """Hour and day of the week of the event's time."""
    for colour, offset_h in zip(COLOURS, (0.0, 5.5), strict=False):
        axes.step(*_through_a_week(hour, offset_h), where="post", color=colour, linewidth=1,
                  label=f"hour, utc_offset_h = {offset_h:g}")  # fmt: skip
    axes.step(*_through_a_week(weekday, 0.0), where="post", color=COLOURS[2], label="weekday, utc_offset_h = 0")
    axes.set(title='transform = "hour", "weekday"', xlabel="days since Monday 00:00 UTC", ylabel="value", ylim=(-1, 34))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")


def cross(axes: Axes) -> None:
    """One feature for each pair of two fields' values."""
    ages, hours = 4, 6
    axes.imshow(np.arange(ages * hours).reshape(ages, hours) * 7 % 24, cmap="tab20b", aspect="auto")
    for age in range(ages):
        for hour_ in range(hours):
            axes.text(hour_, age, f"{age} & {18 + hour_}", ha="center", va="center", color="white", fontsize=7)
    axes.set(title='cross = ["age", "hour"]: a feature a pair', xlabel="hour", ylabel="bin of age",
             xticks=range(hours), xticklabels=range(18, 18 + hours), yticks=range(ages))  # fmt: skip


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
