"""Pictures: what is in the pixels, and clear errors."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metarl.errors import CheckpointError, ConfigError, UnknownNameError
from metarl.plots import adaptation_curve, budget_curve, difference_curve, learning_curve

BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


@dataclass(frozen=True)
class Adaptation:
    iqm_return: list[float]
    ci95_return: list[list[float]]
    success_rate: list[float] | None = None
    env_steps_spent: list[int] | None = None


def curve(returns: list[float], success: list[float] | None = None) -> Adaptation:
    return Adaptation(returns, [[value - 0.5, value + 0.5] for value in returns], success)


def pixels(path: Path, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a colour, (n, 2)."""
    return np.argwhere((np.asarray(Image.open(path).convert("RGB")) == color).all(-1))


def write_metrics(path: Path, values: list[float]) -> Path:
    lines = [{"step": i, "env_steps": 100 * i, "return_last": v} for i, v in enumerate(values, start=1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_higher_return_is_drawn_higher_and_a_rising_one_rises(tmp_path):
    png, _ = adaptation_curve(tmp_path / "a.png", {"high": curve([5.0, 7.0, 9.0]), "low": curve([1.0, 1.0, 1.0])})
    blue, orange = pixels(png, BLUE), pixels(png, ORANGE)
    assert blue[:, 0].mean() < orange[:, 0].mean()
    in_plot = blue[blue[:, 0] < 480]  # the legend is below
    assert np.corrcoef(in_plot[:, 0], in_plot[:, 1])[0, 1] < -0.9


def test_differences_are_drawn_beside_the_curves_in_the_same_colour(tmp_path):
    curves = {"base": np.full(21, 3.0), "worse": np.full(21, 4.0)}
    difference = (np.full(21, 1.0), [[0.5, 1.5]] * 21)
    labels = {"x_label": "SGD steps", "y_labels": ("error", "minus base")}
    png, svg = difference_curve(tmp_path / "a.png", curves, {"worse": difference}, **labels)
    middle = Image.open(png).width / 2
    blue, orange = (p[p[:, 0] < 480] for p in (pixels(png, BLUE), pixels(png, ORANGE)))  # the legend is below
    assert (blue[:, 1] < middle).all() and svg.exists()
    assert (orange[:, 1] < middle).any() and (orange[:, 1] > middle).any()
    assert orange[orange[:, 1] < middle, 0].mean() < blue[:, 0].mean()
    with pytest.raises(UnknownNameError, match=r"unknown curve 'wrse'\. Did you mean 'worse'"):
        difference_curve(tmp_path / "b.png", curves, {"wrse": difference}, **labels)
    with pytest.raises(ConfigError, match="at least one curve"):
        difference_curve(tmp_path / "b.png", {}, {}, **labels)


def test_what_spends_more_is_drawn_further_right(tmp_path):
    curves = {
        "rl2": Adaptation([1.0, 5.0], [[0.5, 1.5], [4.5, 5.5]], env_steps_spent=[0, 200]),
        "maml": Adaptation([1.0, 5.0], [[0.5, 1.5], [4.5, 5.5]], env_steps_spent=[0, 4000]),
        "oracle": Adaptation([6.0, 6.0], [[5.5, 6.5], [5.5, 6.5]], env_steps_spent=[0, 200]),
    }
    png, svg = budget_curve(tmp_path / "a.png", curves)
    blue, orange = (p[p[:, 0] < 480] for p in (pixels(png, BLUE), pixels(png, ORANGE)))  # the legend is below
    assert blue[:, 1].min() == pytest.approx(orange[:, 1].min(), abs=40)  # both start at zero
    assert blue[:, 1].max() + 100 < orange[:, 1].max() and svg.exists()
    with pytest.raises(ConfigError, match="at least one curve"):
        budget_curve(tmp_path / "b.png", {})


def test_a_reference_is_drawn_grey_from_edge_to_edge(tmp_path):
    curves = {"rl2": curve([5.0, 9.0]), "random": curve([1.0, 1.0])}
    png, _ = adaptation_curve(tmp_path / "a.png", curves)
    assert len(pixels(png, BLUE)) > 500 and len(pixels(png, ORANGE)) == 0
    png, _ = adaptation_curve(tmp_path / "b.png", curves, references=())
    assert len(pixels(png, ORANGE)) > 500


def test_where_colours_begin_again_the_line_is_dotted(tmp_path):
    flat = {f"line {i}": curve([float(i)] * 20) for i in range(7)}
    png, _ = adaptation_curve(tmp_path / "a.png", flat)
    blue = pixels(png, BLUE)
    blue = blue[blue[:, 0] < 400]  # the legend is below
    dotted, solid = (blue[(blue[:, 0] < blue[:, 0].mean()) == is_upper] for is_upper in (True, False))
    assert 0 < len(dotted) < 0.7 * len(solid)


def test_success_gets_a_panel_of_its_own_where_there_is_one(tmp_path):
    without, _ = adaptation_curve(tmp_path / "a.png", {"rl2": curve([1.0, 2.0])})
    curves = {"rl2": curve([1.0, 2.0], [0.0, 1.0]), "random": curve([0.0, 0.0])}
    with_success, _ = adaptation_curve(tmp_path / "b.png", curves)
    assert Image.open(with_success).width > Image.open(without).width
    right_half = pixels(with_success, BLUE)[:, 1] > Image.open(with_success).width / 2
    assert right_half.sum() > 500


@pytest.mark.parametrize("num_episodes", [1, 2, 100])
def test_any_number_of_episodes_shows_the_curve(tmp_path, num_episodes):
    png, svg = adaptation_curve(tmp_path / "a.png", {"rl2": curve(list(range(num_episodes)))})
    assert len(pixels(png, BLUE)) > 50 and svg.read_text().startswith("<?xml")


def test_the_same_picture_is_the_same_files(tmp_path):
    files = [adaptation_curve(tmp_path / name, {"rl2": curve([1.0, 2.0])}, title="x") for name in ("a", "b")]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_a_name_with_dollars_is_no_formula(tmp_path):
    png, _ = adaptation_curve(tmp_path / "a.png", {"$x_{ (run)$": curve([1.0])}, title="$\\frac$")
    assert png.stat().st_size > 0  # as a formula it would not have been drawn


def test_learning_curves_of_several_seeds_have_their_mean(tmp_path):
    files = [write_metrics(tmp_path / f"{i}.jsonl", [0.0 + i] * 20) for i in (0, 2)]
    png, _ = learning_curve(tmp_path / "l.png", {"rl2": files})
    rows = pixels(png, BLUE)
    in_plot = rows[rows[:, 0] < 480]
    # Opaque blue is the mean alone, a level line: its rows are a line's width.
    assert np.ptp(in_plot[:, 0]) < 10 and np.ptp(in_plot[:, 1]) > 500


def test_smoothing_is_the_mean_of_the_updates_before(tmp_path):
    alternating = write_metrics(tmp_path / "m.jsonl", [0.0, 10.0] * 20)
    rough, _ = learning_curve(tmp_path / "rough.png", {"rl2": [alternating]})
    level = write_metrics(tmp_path / "level.jsonl", [0.0] + [5.0] * 39)
    smooth, _ = learning_curve(tmp_path / "smooth.png", {"rl2": [alternating]}, smooth=2)
    expected, _ = learning_curve(tmp_path / "expected.png", {"rl2": [level]})
    assert np.asarray(Image.open(smooth)).tobytes() == np.asarray(Image.open(expected)).tobytes()
    assert np.asarray(Image.open(rough)).tobytes() != np.asarray(Image.open(expected)).tobytes()


def test_updates_without_the_metric_are_left_out(tmp_path):
    path = write_metrics(tmp_path / "m.jsonl", [1.0, 2.0])
    with path.open("a") as file:
        file.write('{"step": 3, "env_steps": 300, "validation_return_last": 4.0}\n')
    png, _ = learning_curve(tmp_path / "l.png", {"rl2": [path]}, y="return_last")
    assert len(pixels(png, BLUE)) > 50


def test_a_metric_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    path = write_metrics(tmp_path / "m.jsonl", [1.0])
    with pytest.raises(UnknownNameError, match="Did you mean 'return_last'"):
        learning_curve(tmp_path / "l.png", {"rl2": [path]}, y="retrun_last")


def test_nothing_to_draw_and_nowhere_to_write_are_clear_errors(tmp_path):
    with pytest.raises(ConfigError, match="at least one curve"):
        adaptation_curve(tmp_path / "a.png", {})
    with pytest.raises(ConfigError, match="needs runs"):
        learning_curve(tmp_path / "l.png", {"rl2": []})
    with pytest.raises(CheckpointError, match="cannot read"):
        learning_curve(tmp_path / "l.png", {"rl2": [tmp_path / "gone.jsonl"]})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write picture"):
        adaptation_curve(tmp_path / "file" / "a.png", {"rl2": curve([1.0])})


def test_drawing_leaves_no_global_state(tmp_path):
    code = f"""
import sys
from pathlib import Path
from metarl.plots import adaptation_curve
assert "matplotlib" not in sys.modules
import matplotlib
before = matplotlib.rcParams.copy()
class Flat:
    iqm_return, ci95_return, success_rate = [1.0], [[0.5, 1.5]], None
adaptation_curve(Path({str(tmp_path)!r}) / "a.png", {{"rl2": Flat()}})
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
