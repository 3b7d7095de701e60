"""Pictures of adaptation and of learning, as PNG and SVG.

Matplotlib is imported when a picture is drawn, through figures of its own: no window, no global state. Colours are
those of Okabe and Ito (2008), told apart with any colour vision; lines differ in marker and dash as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from metarl.errors import CheckpointError, ConfigError, UnknownNameError
from metarl.files import reason
from metarl.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
GREYS = ("#333333", "#777777")
_DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2), (2, 1))
_MAX_MARKERS = 12
"""Episodes beyond which single points would merge into a bar."""
_MARGIN = 0.3
"""Episodes to the left of the first and to the right of the last."""
_X_LABELS = {"env_steps": "environment steps", "step": "updates"}


class Curve(Protocol):
    """How a policy adapts over the K episodes of a trial; `metarl.evaluate.Evaluation` is one.

    Attributes:
        iqm_return: K returns.
        ci95_return: K intervals (low, high).
        success_rate: K rates in [0, 1], or None where the environment has no success criterion.
    """

    @property
    def iqm_return(self) -> Sequence[float]: ...
    @property
    def ci95_return(self) -> Sequence[Sequence[float]]: ...
    @property
    def success_rate(self) -> Sequence[float] | None: ...


class BudgetCurve(Curve, Protocol):
    """A `Curve` that knows what it cost.

    Attributes:
        env_steps_spent: K numbers, environment steps spent on a task before each return.
    """

    @property
    def env_steps_spent(self) -> Sequence[int]: ...


def adaptation_curve(
    path: Path,
    curves: Mapping[str, Curve],
    *,
    references: Collection[str] = ("expert", "domain-randomised", "oracle", "random"),
    x_label: str = "episode of the trial",
    first: int = 1,
    y_label: str = "return (IQM, 95 % interval)",
    title: str = "",
) -> tuple[Path, Path]:
    """Draw the return of each episode of a trial, and the rate of success where there is one.

    Args:
        path: where the picture goes; its suffix is replaced by .png and .svg.
        curves: {label: curve}, at least one.
        references: labels of policies that do not adapt, drawn grey and dashed.
        x_label, first: what is counted to the right, and from which number.
        y_label: what the curves are.
        title: a line above.

    Returns:
        The PNG and the SVG.

    Raises:
        ConfigError: no curves.
        CheckpointError: the files cannot be written.
    """
    if not curves:
        raise ConfigError("a picture of adaptation needs at least one curve.")
    with_success = any(curve.success_rate is not None for curve in curves.values())
    figure, panels = _figure(2 if with_success else 1)
    for index, (label, curve) in enumerate(curves.items()):
        style = _reference_style(index) if label in references else _line_style(index, len(curve.iqm_return))
        widen = label in references
        _draw(panels[0], first, curve.iqm_return, curve.ci95_return, widen, label, style)
        if curve.success_rate is not None:
            _draw(panels[1], first, 100 * np.asarray(curve.success_rate), None, widen, label, style)
    num_episodes = max(len(curve.iqm_return) for curve in curves.values())
    for panel in panels:
        _label_episodes(panel, x_label, first, num_episodes)
    panels[0].set_ylabel(y_label)
    if with_success:
        panels[1].set_ylabel("tasks solved (%)")
        panels[1].set_ylim(-4, 104)  # room for the markers at 0 and 100
    return _finish(figure, panels, path, title)


def budget_curve(
    path: Path,
    curves: Mapping[str, BudgetCurve],
    *,
    references: Collection[str] = ("expert", "domain-randomised", "oracle"),
    y_label: str = "return (IQM, 95 % interval)",
    title: str = "",
) -> tuple[Path, Path]:
    """Draw return against the environment steps that were spent on the new task before: all ways to adapt on one axis.

    Args:
        path: where the picture goes; its suffix is replaced by .png and .svg.
        curves: {label: curve}, at least one.
        references: labels of policies that do not adapt, drawn as grey lines at the return of their last episode.
        y_label: what the curves are.
        title: a line above.

    Returns:
        The PNG and the SVG.

    Raises:
        ConfigError: no curves.
        CheckpointError: the files cannot be written.
    """
    if not curves:
        raise ConfigError("a picture of adaptation needs at least one curve.")
    figure, (panel,) = _figure(1)
    spent = [steps for curve in curves.values() for steps in curve.env_steps_spent if steps > 0]
    least, most = min(spent, default=1), max(spent, default=1)
    for index, (label, curve) in enumerate(curves.items()):
        heights, intervals = np.asarray(curve.iqm_return, dtype=float), np.asarray(curve.ci95_return, dtype=float)
        if label in references:
            panel.axhline(heights[-1], label=label, **_reference_style(index))
            continue
        style = _line_style(index, len(heights))
        panel.vlines(curve.env_steps_spent, *intervals.T, color=style["color"], linewidth=1.2)
        panel.plot(curve.env_steps_spent, heights, label=label, **style)
        panel.fill_between(curve.env_steps_spent, *intervals.T, color=style["color"], alpha=0.18, linewidth=0)
    # Linear up to the first step of adaptation, so that zero has a place, logarithmic beyond.
    panel.set_xscale("symlog", linthresh=least, linscale=0.5)
    panel.set_xlim(-0.15 * least, 1.5 * most)
    panel.xaxis.set_major_formatter(_engineering())
    panel.set_xlabel("environment steps spent on the new task before")
    panel.set_ylabel(y_label)
    return _finish(figure, [panel], path, title)


def learning_curve(
    path: Path,
    runs: Mapping[str, Sequence[Path]],
    *,
    x: str = "env_steps",
    y: str = "return_last",
    y_label: str = "return of the last episode",
    smooth: int = 1,
    title: str = "",
) -> tuple[Path, Path]:
    """Draw a metric over training: a thin line per run, a thick one for the mean of several.

    Args:
        path: where the picture goes; its suffix is replaced by .png and .svg.
        runs: {label: the `metrics.jsonl` of each seed}.
        x: the metric to the right, "env_steps" or "step".
        y: the metric upwards; updates without it are left out.
        y_label: what to call it.
        smooth: updates that each point is the mean of (itself and those before it).
        title: a line above.

    Returns:
        The PNG and the SVG.

    Raises:
        ConfigError: no runs, or `smooth` is not positive.
        UnknownNameError: a run has no such metric.
        CheckpointError: a file is missing or damaged, or cannot be written.
    """
    if not runs or not all(runs.values()) or smooth < 1:
        raise ConfigError(f"a learning curve needs runs and a positive smooth, got {dict(runs)} and {smooth}.")
    figure, panels = _figure(1)
    for index, (label, files) in enumerate(runs.items()):
        color = COLORS[index % len(COLORS)]
        lines = [_smoothed(*_columns(file, x, y), smooth) for file in files]
        if len(lines) == 1:
            panels[0].plot(*lines[0], color=color, label=label, linewidth=2)
            continue
        for line in lines:
            panels[0].plot(*line, color=color, alpha=0.35, linewidth=1)
        panels[0].plot(*_mean(lines), color=color, label=f"{label} (mean of {len(lines)} seeds)", linewidth=2.2)
    panels[0].set_xlabel(_X_LABELS.get(x, x.replace("_", " ")))
    panels[0].set_ylabel(y_label)
    panels[0].xaxis.set_major_formatter(_engineering())
    return _finish(figure, panels, path, title)


def difference_curve(
    path: Path,
    curves: Mapping[str, ArrayLike],
    differences: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    references: Collection[str] = (),
    x_label: str,
    y_labels: tuple[str, str],
    title: str = "",
) -> tuple[Path, Path]:
    """Draw curves over K steps, and beside them by how much they differ from one of them, with intervals.

    Where tasks differ more than contenders, bands around the curves themselves hide what is certain: on the same tasks
    one is lower than the other.

    Args:
        path: where the picture goes; its suffix is replaced by .png and .svg.
        curves: {label: K values}, at least one.
        differences: {label of a curve: (K values, K intervals (low, high))}.
        references: labels of curves that are drawn grey and dashed.
        x_label: what is counted to the right, from 0.
        y_labels: what the curves are, and what the differences are.
        title: a line above.

    Returns:
        The PNG and the SVG.

    Raises:
        ConfigError: no curves.
        UnknownNameError: a difference has no curve.
        CheckpointError: the files cannot be written.
    """
    if not curves:
        raise ConfigError("a picture of differences needs at least one curve.")
    for label in differences:
        if label not in curves:
            raise UnknownNameError("curve", label, curves)
    figure, panels = _figure(2)
    panels[1].axhline(0, color=GREYS[1], linewidth=1)
    for index, (label, values) in enumerate(curves.items()):
        num_steps = len(np.asarray(values))
        style = _reference_style(index) if label in references else _line_style(index, num_steps)
        panels[0].plot(np.arange(num_steps), values, label=label, **style)
        if label in differences:
            heights, intervals = differences[label]
            _draw(panels[1], 0, heights, np.asarray(intervals), False, label, style)
    for panel, y_label in zip(panels, y_labels, strict=True):
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        panel.margins(x=0.02)
    panels[0].set_ylim(bottom=0)
    return _finish(figure, panels, path, title)


def _figure(num_panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if num_panels == 1 else 9.6, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for panel in panels:
        panel.grid(color="#dddddd", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=11)
        panel.xaxis.label.set_size(12)
        panel.yaxis.label.set_size(12)
    return figure, panels


def _finish(figure: Figure, panels: Sequence[Axes], path: Path, title: str) -> tuple[Path, Path]:
    from matplotlib import rc_context

    handles, names = panels[0].get_legend_handles_labels()
    labels = [name.replace("$", r"\$") for name in names]  # a name is no formula
    columns = int(figure.get_figwidth() / (0.085 * max(map(len, labels)) + 0.75))  # inches of a letter, of the rest
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), max(columns, 1), 4),
        frameon=False,
        fontsize=11,
    )
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=13)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(png, metadata={"Software": "metarl"})
        with rc_context({"svg.hashsalt": "metarl"}):  # the same picture gives the same file
            figure.savefig(svg, metadata={"Date": None})
    except OSError as error:
        raise CheckpointError(f"cannot write picture {png}: {reason(error, path.parent)}.") from error
    return png, svg


def _draw(
    panel: Axes,
    first: int,
    values: ArrayLike,
    intervals: ArrayLike | None,
    widen: bool,
    label: str,
    style: Mapping[str, Any],
) -> None:
    """Draw K values with a band against first, first + 1, ...; `widen` carries the ends on to the panel's edges."""
    heights = np.asarray(values, dtype=float)
    episodes = np.arange(first, first + len(heights), dtype=float)
    rows = heights[None] if intervals is None else np.vstack([heights, np.asarray(intervals, dtype=float).T])
    if not widen and len(heights) <= _MAX_MARKERS and intervals is not None:
        panel.vlines(episodes, rows[1], rows[2], color=style["color"], linewidth=1.2)  # a band of one episode is none
    if widen:
        episodes = np.concatenate([[episodes[0] - _MARGIN], episodes, [episodes[-1] + _MARGIN]])
        rows = np.pad(rows, ((0, 0), (1, 1)), mode="edge")
    panel.plot(episodes, rows[0], label=label, **style)
    if intervals is not None:
        panel.fill_between(episodes, rows[1], rows[2], color=style["color"], alpha=0.18, linewidth=0)


def _line_style(index: int, num_episodes: int) -> dict[str, Any]:
    style = {"color": COLORS[index % len(COLORS)], "linewidth": 2.2, "zorder": 3}
    if index >= len(COLORS):  # the colours begin again
        style["linestyle"] = ":"
    if num_episodes <= _MAX_MARKERS:
        style |= {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 6.5}
    return style


def _reference_style(index: int) -> dict[str, Any]:
    color, dashes = GREYS[index % len(GREYS)], _DASHES[index % len(_DASHES)]
    return {"color": color, "linestyle": (0, dashes), "linewidth": 1.8}


def _label_episodes(panel: Axes, x_label: str, first: int, num_episodes: int) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel(x_label)
    panel.set_xlim(first - _MARGIN, first + num_episodes - 1 + _MARGIN)
    if num_episodes <= _MAX_MARKERS:
        panel.set_xticks(range(first, first + num_episodes))
    else:
        panel.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _engineering() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _columns(file: Path, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    lines = read_metrics(file)
    names = {name for line in lines for name in line}
    for name in (x, y):
        if name not in names:
            raise UnknownNameError(f"metric of {file}", name, names)
    points = np.array([(line[x], line[y]) for line in lines if x in line and y in line], dtype=float)
    return points[:, 0], points[:, 1]


def _smoothed(x: np.ndarray, y: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    total = np.cumsum(np.insert(y, 0, 0.0))
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - width, 0)
    return x, (total[ends] - total[starts]) / (ends - starts)


def _mean(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of several lines where all of them are known."""
    start, end = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    grid = lines[0][0][(lines[0][0] >= start) & (lines[0][0] <= end)]
    return grid, np.mean([np.interp(grid, x, y) for x, y in lines], axis=0)
