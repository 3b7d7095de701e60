"""The pictures of an explanation: one function per picture, each returns a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.distil import ACCEPTED_SHARE, Distillation
from metarl.explain.gradients import TRUE
from metarl.explain.measures import InputMeasures, Measures, TaskMeasures
from metarl.losses.adaptive import STEP_SIZE_GROUPS
from metarl.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DIVERGING, _SEQUENTIAL = "RdBu_r", "viridis"
_MAX_DOTS, _MAX_LINES = 400, 40
_FEW = 5
_WIDE = 20
"""Step sizes that differ by more than this factor are drawn on a logarithmic axis."""
_STYLES: dict[str, dict[str, Any]] = {
    "learned": {"color": COLORS[0], "marker": "o", "linewidth": 2.4, "zorder": 4},
    "dense": {"color": COLORS[1], "marker": "s", "linewidth": 1.8},
    "feedback": {"color": COLORS[2], "marker": "^", "linewidth": 1.8},
    TRUE: {"color": "#555555", "linestyle": (0, (4, 2)), "linewidth": 1.8},
}


def words(name: str) -> str:
    """A name as it is read: without underscores; the input `reward` is the feedback, to which a loss adds."""
    return "feedback" if name == "reward" else name.replace("_", " ")


def maps(measures: InputMeasures) -> Figure:
    """The loss over pairs of its strongest inputs."""
    pairs = list(measures.maps)
    columns = min(3, len(pairs))
    figure, panels = _figure(-(-len(pairs) // columns), columns, 3.4, 2.9, grid=False)
    size = max(float(values.abs().max()) for values in measures.maps.values())
    dots = measures.rows[:_MAX_DOTS].cpu()
    for panel, (first, second) in zip(panels, pairs, strict=False):
        x, y = (measures.map_grids[i].cpu().numpy() for i in (first, second))
        values = measures.maps[first, second].cpu().numpy()
        mesh = panel.pcolormesh(
            x, y, values, cmap=_DIVERGING, vmin=-size, vmax=size, shading="gouraud", rasterized=True
        )
        if values.max() - values.min() > 1e-9:
            panel.contour(x, y, values, levels=7, colors="#333333", linewidths=0.5, linestyles="solid")
        panel.scatter(dots[:, first], dots[:, second], s=3, color="black", alpha=0.25, linewidths=0)
        panel.set_xlim(x[0], x[-1])
        panel.set_ylim(y[0], y[-1])
        panel.set_xlabel(words(measures.names[first]))
        panel.set_ylabel(words(measures.names[second]))
    for panel in panels[len(pairs) :]:
        panel.set_visible(False)
    bar = figure.colorbar(mesh, ax=panels, shrink=0.85, pad=0.015)
    bar.set_label("what the loss adds (red: good)")
    return figure


def responses(measures: InputMeasures) -> Figure:
    """The share of each input, and the response to the strongest ones."""
    shown = measures.order[:4]
    figure, panels = _figure_of([["shares", 0, 1], ["shares", 2, 3]], 10.0, 5.2)
    order = measures.order[:10][::-1]
    bars = panels["shares"]
    shares = [100 * float(measures.shares[i]) for i in order]
    bars.barh([words(measures.names[i]) for i in order], shares, color=COLORS[0])
    bars.set_xlabel("share of the loss (%)")
    bars.grid(axis="y", visible=False)
    lines = [measures.curves[i].cpu().numpy() for i in shown]
    centred = [line - line.mean() for line in lines]
    bands = [np.quantile(line - line.mean(0), [0.1, 0.9], axis=1) for line in centred]
    size = 1.08 * max(float(np.abs(values).max()) for values in [*bands, *(line.mean(1) for line in centred)])
    for place, (index, curves, band) in enumerate(zip(shown, centred, bands, strict=True)):
        panel, grid = panels[place], measures.grids[index].cpu().numpy()
        panel.fill_between(grid, *band, color=COLORS[0], alpha=0.2, linewidth=0)
        panel.plot(grid, curves.mean(1), color=COLORS[0], linewidth=2.2)
        panel.axhline(0, color="#888888", linewidth=0.8)
        panel.set_ylim(-size, size)
        panel.locator_params(axis="x", nbins=5)
        panel.set_xlabel(words(measures.names[index]))
        if place % 2 == 0:
            panel.set_ylabel("what the loss adds")
    for place in range(len(shown), 4):
        panels[place].set_visible(False)
    return figure


def landscapes(measures: Measures) -> Figure:
    """Learned loss, dense loss and true return around one policy, at three moments of its life."""
    names = list(measures.landscapes[0].losses)
    figure, panels = _figure(len(measures.landscapes), len(names) + 1, 3.2, 2.7, grid=False)
    remaining = iter(panels)
    for row, land in enumerate(measures.landscapes):
        offsets = land.offsets.cpu().numpy()
        for name in names:
            panel = next(remaining)
            _mesh(figure, panel, offsets, -land.losses[name].cpu().numpy())
            x, y = land.descents[name]
            reach = 0.55 * offsets[-1]
            arrow = {"color": "white", "lw": 2.2, "arrowstyle": "-|>", "mutation_scale": 14}
            panel.annotate("", (reach * x, reach * y), (0, 0), arrowprops=arrow)
            _corner(panel, f"agrees with the return: {land.correlations[name]:.2f}")
            if row == 0:
                panel.set_title(f"minus the {name} loss", fontsize=11)
        panel = next(remaining)
        _mesh(figure, panel, offsets, land.returns.cpu().numpy())
        if row == 0:
            panel.set_title("true return", fontsize=11)
        panels[row * (len(names) + 1)].set_ylabel(f"{_updates(land.update)}\ndirection 2", fontsize=10)
    for panel in panels[-len(names) - 1 :]:
        panel.set_xlabel("direction 1", fontsize=10)
    return figure


def cosines(measures: Measures) -> Figure:
    """How well each loss points along the true gradient, update by update."""
    figure, (panel,) = _figure(1, 1, 7.2, 4.0)
    for name, values in measures.cosines.items():
        numbers = values.cpu().numpy()
        updates = np.arange(1, len(numbers) + 1)
        low, high = np.quantile(numbers, [0.25, 0.75], axis=1)
        label = {"learned": "learned loss", TRUE: "true reward, same experience"}.get(name, f"{name} (by hand)")
        panel.plot(updates, numbers.mean(1), label=label, markersize=5, **_STYLES[name])
        alpha = 0.2 if name == "learned" else 0.08
        panel.fill_between(updates, low, high, color=_STYLES[name]["color"], alpha=alpha, linewidth=0)
    panel.axhline(0, color="#888888", linewidth=0.8)
    panel.set_xticks(updates if len(updates) <= 15 else updates[:: -(-len(updates) // 10)])
    panel.set_xlabel("inner update")
    panel.set_ylabel("cosine with the true gradient")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def tasks(measures: TaskMeasures) -> Figure:
    """How the loss and its step sizes differ between tasks."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, (left, right) = _figure(1, 2, 5.0, 3.8)
    values = measures.parameter_values.cpu().numpy()
    norm = Normalize(float(values.min()), float(values.max()))
    for value, curve in list(zip(values, measures.responses.cpu().numpy(), strict=True))[:_MAX_LINES]:
        left.plot(
            measures.grid.cpu().numpy(), curve, color=colormaps[_SEQUENTIAL](norm(value)), linewidth=1.1, alpha=0.8
        )
    left.axhline(0, color="#888888", linewidth=0.8)
    left.set_xlabel(words(measures.axis))
    left.locator_params(axis="x", nbins=6)
    left.set_ylabel("what the loss adds")
    name, unit = measures.parameter
    bar = figure.colorbar(ScalarMappable(norm, _SEQUENTIAL), ax=left, pad=0.02)
    few = np.unique(values)
    if len(few) <= _FEW:  # a choice: no values between
        bar.set_ticks([float(value) for value in few])
    bar.set_label(words(name) + (f" ({unit})" if unit != "1" else ""))
    sizes = measures.step_sizes.cpu().numpy()  # (B, K, 3)
    updates = np.arange(1, sizes.shape[1] + 1)
    for index, group in enumerate(STEP_SIZE_GROUPS):
        label = {"hidden": "hidden layers", "head": "last layer", "log_std": "exploration"}[group]
        right.plot(
            updates, sizes[:, :, index].mean(0), color=COLORS[index], marker="os^"[index], markersize=5, label=label
        )
        right.fill_between(
            updates, sizes[:, :, index].min(0), sizes[:, :, index].max(0), color=COLORS[index], alpha=0.18, linewidth=0
        )
    if sizes.max() > _WIDE * sizes.min():
        right.set_yscale("log")
    else:
        right.set_ylim(0, 1.08 * sizes.max())
    right.set_xticks(updates if len(updates) <= 15 else updates[:: -(-len(updates) // 10)])
    right.set_xlabel("inner update")
    right.set_ylabel("step size")
    right.legend(frameon=False, fontsize=9)
    return figure


def formulas(found: Distillation) -> Figure:
    """Simplicity against fidelity, and what counts: what policies gain with each formula."""
    figure, (left, right) = _figure(1, 2, 4.9, 3.8)
    sizes = np.array([one.complexity for one in found.candidates])
    fidelity = np.array([one.r_squared for one in found.candidates])
    left.plot(sizes, fidelity, color=COLORS[0], marker="o", label="R² of the loss")
    correlation = [one.advantage_correlation for one in found.candidates]
    left.plot(sizes, correlation, color=COLORS[1], marker="s", label="correlation of advantages")
    left.set_ylim(min(-0.05, float(min(correlation)) - 0.05), 1.05)
    left.set_ylabel("fidelity")
    left.legend(frameon=False, fontsize=9, loc="lower right")
    for one in found.candidates:
        color = COLORS[2] if one.is_accepted else COLORS[1]
        low, high = one.share_ci95
        right.vlines(one.complexity, 100 * low, 100 * high, color=color, linewidth=1.3)
        face = color if one.is_accepted else "white"
        right.plot(one.complexity, 100 * one.share, marker="o", color=color, markerfacecolor=face, markersize=7)
    right.axhline(100, color="#555555", linewidth=1.2, linestyle=(0, (4, 2)))
    right.axhline(100 * ACCEPTED_SHARE, color=COLORS[2], linewidth=1.2, linestyle=(0, (1, 1.5)))
    right.set_ylabel("gain of policies, network = 100 (%)")
    for panel in (left, right):
        panel.set_xlabel("nodes of the formula")
    return figure


def _figure(rows: int, columns: int, width: float, height: float, grid: bool = True) -> tuple[Figure, list[Axes]]:
    """Panels row by row, each of so many inches."""
    places = [[row * columns + column for column in range(columns)] for row in range(rows)]
    figure, panels = _figure_of(places, columns * width, rows * height, grid)
    return figure, [panels[i] for i in range(rows * columns)]


def _figure_of(
    places: list[list[Any]], width: float, height: float, grid: bool = True
) -> tuple[Figure, dict[Any, Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic(places)
    for panel in panels.values():
        if grid:
            panel.grid(color="#dddddd", linewidth=0.8)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
        panel.xaxis.label.set_size(10)
        panel.yaxis.label.set_size(10)
    return figure, panels


def _mesh(figure: Figure, panel: Axes, offsets: np.ndarray, values: np.ndarray) -> None:
    """Values over the two directions; the policy itself is the cross."""
    mesh = panel.pcolormesh(offsets, offsets, values, cmap=_SEQUENTIAL, shading="gouraud", rasterized=True)
    if values.max() - values.min() > 1e-9:
        panel.contour(offsets, offsets, values, levels=8, colors="white", linewidths=0.5, alpha=0.6, linestyles="solid")
    panel.plot(0, 0, marker="+", color="white", markersize=11, markeredgewidth=2)
    panel.set_aspect("equal")
    panel.tick_params(labelsize=8)
    bar = figure.colorbar(mesh, ax=panel, shrink=0.8, pad=0.02)
    bar.ax.tick_params(labelsize=8)


def _corner(panel: Axes, text: str) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "black", "alpha": 0.55, "linewidth": 0}
    panel.text(0.03, 0.96, text, transform=panel.transAxes, fontsize=8, color="white", va="top", bbox=box)


def _updates(count: int) -> str:
    return "at the start" if count == 0 else f"after {count} update{'s' * (count > 1)}"
