"""How memory and gradients adapt on the suite, drawn from what was measured: docs/images/suite-adaptation.png.

Return against the episodes that were spent on an unseen task before, on tasks like those of the training (test) and
beyond their ranges (extrapolation). Lines of reference: the scripted expert, a policy without memory, random actions.

    python scripts/suite_curves.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _measure import RESULTS

from metarl.plots import COLORS, GREYS

ENVS = ("push", "door-open", "drawer-open", "track", "surface-shift", "traffic")
SPLITS = ("test", "extrapolation")
OUT = Path(__file__).parents[1] / "docs" / "images" / "suite-adaptation.png"
ADAPTING = {"RL²": (COLORS[0], "o"), "MAML-TRPO": (COLORS[1], "s")}
STILL = {
    "scripted expert, told the task": (GREYS[0], (4, 2)),
    "policy without memory": (COLORS[2], (6, 2, 1, 2)),
    "random actions": (GREYS[1], (1, 1.5)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    draw(arguments.out)
    print(arguments.out)


def measured() -> dict[str, dict[str, dict[str, Any]]]:
    """{environment: {split: {line: returns, intervals and, where it adapts, episodes before}}}."""
    rl2, maml, blind = (_results(f"suite-{name}.json") for name in ("rl2", "maml", "without-memory"))
    gaps, track = (json.loads((RESULTS / name).read_text()) for name in ("check_suite.json", "track.json"))
    rl2["track"] = track["splits"]
    blind["track"] = track["splits"]
    gap = gaps["drawer-open"]["policies"]["domain-randomised"]
    blind["drawer-open"] = {"test": {"domain-randomised": {"iqm_return": [gap["iqm"]], "ci95_return": [gap["ci95"]]}}}
    lines: dict[str, dict[str, dict[str, Any]]] = {}
    for env in ENVS:
        lines[env] = {}
        for split in SPLITS:
            known = {
                "RL²": rl2[env][split]["rl2"],
                "MAML-TRPO": maml[env][split]["maml-trpo"],
                "scripted expert, told the task": (maml if env == "track" else rl2)[env][split]["expert"],
                "policy without memory": blind[env].get(split, {}).get("domain-randomised"),
                "random actions": rl2[env][split]["random"],
            }
            lines[env][split] = {label: line for label, line in known.items() if line is not None}
            for label, per_step in {"RL²": 1, "MAML-TRPO": maml[env]["episodes_per_task"]}.items():
                line = lines[env][split][label]
                line["episodes_before"] = [per_step * i for i in range(len(line["iqm_return"]))]
    return lines


def draw(path: Path) -> None:
    """A panel for each environment and split."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = measured()
    figure = Figure(figsize=(14, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(SPLITS), len(ENVS), sharex=True, sharey="col")
    for column, env in enumerate(ENVS):
        for row, split in enumerate(SPLITS):
            panel = panels[row][column]
            _draw_panel(panel, lines[env][split])
            if row == 0:
                panel.set_title(env, fontsize=12)
            else:
                panel.set_xlabel("episodes on the task before", fontsize=10)
            if column == 0:
                panel.set_ylabel(f"{split}: return (IQM)", fontsize=11)
    found: dict[str, Any] = {}
    for panel in panels.flat:
        found |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    labels = [label for label in (*ADAPTING, *STILL) if label in found]
    figure.legend([found[label] for label in labels], labels, loc="outside lower center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": "metarl"})


def _draw_panel(panel: Any, lines: Mapping[str, Mapping[str, Any]]) -> None:
    for label, (color, dashes) in STILL.items():
        if label in lines:
            panel.axhline(lines[label]["iqm_return"][0], label=label, color=color, linestyle=(0, dashes), linewidth=1.6)
    for label, (color, marker) in ADAPTING.items():
        if label in lines:
            x, line = lines[label]["episodes_before"], lines[label]
            low, high = zip(*line["ci95_return"], strict=True)
            panel.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
            panel.plot(x, line["iqm_return"], label=label, color=color, marker=marker, markersize=5, linewidth=2)
    panel.set_xscale("symlog", linthresh=1, linscale=0.5)
    panel.set_xticks([0, 1, 10, 60], ["0", "1", "10", "60"])
    panel.grid(color="#dddddd", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _results(name: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((RESULTS / name).read_text())["results"]
    return results


if __name__ == "__main__":
    main()
