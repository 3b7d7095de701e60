"""Pictures of few-shot learning: reliability diagrams, one task with its answers, embeddings of unseen classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import CheckpointError
from metarl.fewshot.evaluate import FewShotEvaluation
from metarl.fewshot.types import Embeds, Episode, FewShotLearner
from metarl.files import reason
from metarl.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X<>"
_RIGHT, _WRONG = COLORS[2], COLORS[1]
_MAX_WAYS, _MAX_SHOTS, _MAX_QUERIES = 8, 3, 6


def reliability_diagram(path: Path, evaluations: Sequence[FewShotEvaluation]) -> Path:
    """Draw accuracy against confidence, a panel per kind of task, and below how often each confidence occurs.

    Args:
        path: of the PNG.
        evaluations: at least one; those of one kind of task share a panel.

    Returns:
        The PNG.

    Raises:
        CheckpointError: it cannot be written.
    """
    kinds = list(dict.fromkeys(e.task_name for e in evaluations))
    figure = new_figure(3.2 * len(kinds), 4.4)
    panels = figure.subplots(2, len(kinds), squeeze=False, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    for column, kind in enumerate(kinds):
        diagram, histogram = panels[0][column], panels[1][column]
        diagram.plot((0, 1), (0, 1), color="#777777", linestyle=(0, (4, 2)), linewidth=1)
        for index, e in enumerate(e for e in evaluations if e.task_name == kind):
            color, marker = COLORS[index % len(COLORS)], _MARKERS[index % len(_MARKERS)]
            confidence = [b.confidence for b in e.bins]
            label = f"{e.learner}: ECE {100 * e.ece:.1f} %"
            diagram.plot(
                confidence, [b.accuracy for b in e.bins], marker=marker, markersize=4, color=color, label=label
            )
            counts = np.array([count for _, _, count in e.bins])
            histogram.plot(confidence, counts / counts.sum(), color=color, marker=marker, markersize=3)
        diagram.set(title=kind, xlim=(0, 1), ylim=(0, 1))
        diagram.legend(frameon=False, fontsize=8)
        histogram.set(xlabel="confidence", ylim=(0, None))
    panels[0][0].set_ylabel("accuracy")
    panels[1][0].set_ylabel("share")
    for panel in panels.flat:
        quiet(panel)
    return save_figure(figure, path)


def episode_picture(path: Path, episode: Episode, log_probs: Tensor, names: Sequence[str] = ()) -> Path:
    """Draw the first task: a row per class, its support on the left, queries of it with the answers on the right.

    Args:
        path: of the PNG.
        episode: tasks of images or signals.
        log_probs: (B, Q, W) of their queries.
        names: of the classes of the first task; none: they are numbered.

    Returns:
        The PNG.

    Raises:
        CheckpointError: it cannot be written.
    """
    task, probs = episode.tasks(0, 1).to("cpu"), log_probs[0].exp().cpu()
    ways = min(_MAX_WAYS, task.num_ways)
    shots = min(_MAX_SHOTS, int((task.support_y[0] == 0).sum()))
    queries = min(_MAX_QUERIES, int((task.query_y[0] == 0).sum()))
    figure = new_figure(1.0 * (shots + queries) + 2.4, 1.15 * ways + 0.4)
    panels = figure.subplots(
        ways, 1 + shots + queries, squeeze=False, gridspec_kw={"width_ratios": [1.4] + [1] * (shots + queries)}
    )
    called = _called(names, task.num_ways)
    for way in range(ways):
        support = ((task.support_y[0] == way) & task.support_mask[0]).nonzero()[:shots, 0]
        asked = ((task.query_y[0] == way) & task.query_mask[0]).nonzero()[:queries, 0]
        for panel in panels[way]:
            panel.set_axis_off()
        panels[way][0].text(1.0, 0.5, f"{way + 1}  {called[way]}", fontsize=8, ha="right", va="center", color="#333333")
        for column, sample in enumerate(support.tolist(), start=1):
            _sample(panels[way][column], task.support_x[0, sample])
        for column, sample in enumerate(asked.tolist(), start=1 + shots):
            answer, sure = int(probs[sample].argmax()), float(probs[sample].max())
            color = _RIGHT if answer == way else _WRONG
            _sample(panels[way][column], task.query_x[0, sample])
            panels[way][column].set_title(f"{answer + 1}: {100 * sure:.0f} %", fontsize=8, color=color)
    figure.suptitle(f"class, support ({shots} of a class)   |   queries with answer and confidence", fontsize=10)
    return save_figure(figure, path)


def embedding_picture(
    path: Path, learner: FewShotLearner, episode: Episode, title: str = "", names: Sequence[str] = ()
) -> Path | None:
    """Draw the queries of the first task in the plane in which its classes' mean embeddings vary most.

    Args:
        path: of the PNG.
        learner: whose embedding is drawn.
        episode: tasks.
        title: a line above.
        names: of the classes of the first task; none: they are numbered.

    Returns:
        The PNG; None where the learner has no embedding for all tasks.

    Raises:
        CheckpointError: it cannot be written.
    """
    if not isinstance(learner, Embeds):
        return None
    task = episode.tasks(0, 1)
    x, y = task.query_x[0][task.query_mask[0]], task.query_y[0][task.query_mask[0]].cpu()
    with torch.no_grad():
        embedded = learner.embed(x).flatten(1).cpu()  # (Q, D)
    means = torch.stack([embedded[y == way].mean(0) for way in range(task.num_ways)])  # (W, D)
    plane = torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh[:2]  # (2, D)
    points = ((embedded - means.mean(0)) @ plane.mT).numpy()  # (Q, 2)
    figure = new_figure(6.2, 4.2)
    panel = figure.subplots()
    called = _called(names, task.num_ways)
    for way in range(task.num_ways):
        color, marker = COLORS[way % len(COLORS)], _MARKERS[way % len(_MARKERS)]
        of_way = points[(y == way).numpy()]
        label = f"{way + 1}  {called[way]}".replace("\n", " ")
        panel.scatter(
            of_way[:, 0], of_way[:, 1], s=16, color=color, marker=marker, alpha=0.8, linewidths=0, label=label
        )
        panel.annotate(str(way + 1), tuple(of_way.mean(0)), fontsize=10, weight="bold", ha="center", va="center")
    panel.set(xlabel="first direction of the class means", ylabel="second direction")
    panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    quiet(panel)
    if title:
        panel.set_title(title, fontsize=10)
    return save_figure(figure, path)


def _called(names: Sequence[str], num_ways: int) -> list[str]:
    """Names as they are shown: of a path the last two parts, such as alphabet and character, below each other."""
    if not names:
        return [f"class {way + 1}" for way in range(num_ways)]
    return ["\n".join(name.split("/")[-2:]).replace("_", " ") for name in names]


def _sample(panel: Axes, x: Tensor) -> None:
    """An image (C, H, W), or a signal (C, L) as an image of its channels over time."""
    values = x.numpy()
    if values.ndim == 3 and values.shape[0] == 3:
        panel.imshow(np.moveaxis(values, 0, -1).clip(0, 1))
    elif values.ndim == 3:
        panel.imshow(values[0], cmap="gray_r", vmin=0, vmax=1)
    elif values.ndim == 2:
        panel.imshow(values, aspect="auto", origin="lower", cmap="magma", vmin=-2.5, vmax=2.5)
    else:
        panel.plot(values, linewidth=0.8)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches, that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def quiet(panel: Any) -> None:
    """A grid behind the data, and no box around it."""
    panel.grid(color="#dddddd", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG; returns its path.

    Raises:
        CheckpointError: it cannot be written.
    """
    png = path.with_suffix(".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(png, metadata={"Software": "metarl"})
    except OSError as error:
        raise CheckpointError(f"cannot write picture {png}: {reason(error, path.parent)}.") from error
    return png
