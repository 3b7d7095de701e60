"""The comparison of losses on track: what it makes of returns, and the settings that it trains with."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from metarl.losses.expression import evaluate
from metarl.losses.formula import read_formula

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import bench_track_losses as bench


def test_the_episodes_that_a_contender_needs_are_those_until_it_earns_what_the_learned_reward_does_after_one_step():
    learned = np.tile([0.0, 2.0, 3.0], (1, 8, 1))  # a seed, tasks, updates
    slow = np.tile([0.0, 1.0, 2.5], (1, 8, 1))
    judged = bench.judgement(slow, learned, episodes_per_task=10)
    assert judged["iqm"] == [0.0, 1.0, 2.5]
    assert judged["learned_reward_minus_this"] == [0.0, 1.0, 0.5]
    assert judged["episodes_needed"] == 20
    assert bench.judgement(slow - 1, learned, episodes_per_task=10)["episodes_needed"] is None
    assert bench.judgement(learned, learned, episodes_per_task=10)["episodes_needed"] == 10


@pytest.mark.parametrize("shaping", bench.SHAPINGS)
def test_a_hand_made_shaping_pays_for_coming_nearer_to_the_line(shaping):
    formula = read_formula(bench.shaped_reward(shaping, 0.05).removeprefix(bench.FORMULA))
    assert formula.step_sizes == ((0.05, 0.05, 0.05),)
    assert set(formula.read_signals) <= set(envs.make_spec("track").signals.names)
    names = formula.input_names
    steps = torch.zeros(2, len(names))  # left of the line, one step towards it and one away
    steps[:, names.index("line_offset")] = 0.5
    steps[:, names.index("change_of_line_offset")] = torch.tensor([-0.1, 0.1])
    nearer, farther = evaluate(formula.tree(), dict(zip(names, steps.unbind(1), strict=True))).tolist()
    assert nearer > 0 > farther
