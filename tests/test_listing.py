"""What `metarl list` prints: everything there is to choose from, readable on a narrow terminal."""

import re

import pytest

import envs
from metarl import learners
from metarl.errors import UnknownNameError
from metarl.listing import details, overview
from tests.probes import hidden_target


def test_the_overview_names_every_environment_algorithm_and_task_parameter():
    text = overview()
    for name in [*envs.families(envs.names()), *learners.names()]:
        assert re.search(rf"^{re.escape(name)}: ", text, re.MULTILINE), name
    words = set(re.findall(r"\w+", text))
    for names in envs.families(envs.names()).values():
        assert set(names) <= set(text.replace(",", " ").split())
    for name in envs.OWN:
        assert {p.name for p in envs.make_spec(name).tasks.parameters} <= words


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_terminal_and_keep_words_and_intervals_whole(width):
    for text in (overview(width), details("track", width), details("rl2", width)):
        assert max(map(len, text.splitlines())) <= width
    words = details("track", width).split()
    assert {"tyre_stiffness_front:", "extrapolation", "[0.4,", "1.1];"} <= set(words)
    assert details("track", width).split() == details("track", 1000).split()
    assert not re.search(r"\[[^\]]*\n", details("track", width))


def test_the_details_of_an_environment_show_where_each_split_draws_its_parameters(monkeypatch):
    monkeypatch.setattr(envs, "_REGISTERED", {"hidden-target": hidden_target})
    assert details("hidden-target") == (
        "hidden-target:\n"
        "  1 observations, 1 continuous actions, 5 steps, no body\n"
        "  task parameters: target\n"
        "  splits: train, validation, test, interpolation, extrapolation\n"
        "  presets: default\n"
        "\n"
        "  target\n"
        "      train [-0.8, 0.8]; interpolation [-0.1, 0.1]; extrapolation [0.8, 1]"
    )


def test_the_details_show_shapes_units_and_other_distributions():
    assert "  transition 10x5x10: P(s' | s, a)\n      train flat on the simplex" in details("tabular-mdp")
    assert "  reward_mean 10x5: of a state and action\n      train normal, mean 1, std 1" in details("tabular-mdp")
    assert "  goal_radius [m]: " in details("reach-planar") and "train [0.6, 1.6] log;" in details("reach-planar")
    assert "train one of -1, 1" in details("track")


def test_the_details_show_held_out_values_and_shifts():
    text = details("reach-robots")
    assert "      train one of 0, 1; extrapolation one of 2, 3" in text and "      train 0; extrapolation 1" in text
    assert text.endswith(
        "\n\n  shifts\n    directions: extrapolation in goal_direction\n    distances: extrapolation in goal_distance\n"
        "    dynamics: extrapolation in mass or friction or gain or swapped\n    robots: extrapolation in robot"
    )
    assert max(map(len, details("reach-robots", 40).splitlines())) <= 40


def test_the_details_of_an_algorithm_show_its_presets():
    lines = details("oracle").splitlines()
    assert lines[0].startswith("oracle: ") and "    reach-planar: default, quick" in lines


def test_an_unknown_name_is_told_with_the_nearest():
    expected = r"unknown environment, algorithm, data set or learner 'trakc'\. Did you mean 'track'\?"
    with pytest.raises(UnknownNameError, match=expected):
        details("trakc")
