"""The two success rates of Meta-World's meta-learning protocol: the official evaluator's, and an unbiased one.

Both are given the same episodes after adaptation: for each goal of a class, when success came in each of its episodes.

The official one (`metaworld.evaluation.evaluation`) runs several goals of a class side by side, ends an episode at
success, starts the next one at once, and counts the first three episodes *to finish* in the class. Successful episodes
are short, so they fill the quota before failures, which last the whole horizon, are counted: an agent that always
solves one goal in four, early enough, gets 100 %.
"""

from __future__ import annotations

import numpy as np

OFFICIAL_META_BATCH = 20
"""Test environments side by side, over all test classes."""
NUM_COUNTED = 3
"""Episodes to finish that the official evaluator counts per class."""


def unbiased_success(success_step: np.ndarray) -> float:
    """The share of episodes with success, every goal with the same number of episodes.

    Args:
        success_step: (G, E) the step, from 1, at which success first held in each episode of each goal; 0: never.
    """
    return float((success_step > 0).mean())


def official_success(success_step: np.ndarray, horizon: int, num_parallel: int) -> float:
    """What the official evaluator makes of the same episodes.

    Args:
        success_step: (G, E) as in `unbiased_success`, E at least `NUM_COUNTED`: no goal is counted more often.
        horizon: steps of an episode without success.
        num_parallel: goals of the class that run side by side; the first ones together, then the next ones. The last
            round may have fewer.

    Returns:
        The mean over rounds.
    """
    if success_step.shape[1] < NUM_COUNTED:
        raise ValueError(
            f"the official evaluator counts up to {NUM_COUNTED} episodes of a goal, got {success_step.shape}."
        )
    rates = []
    for start in range(0, len(success_step), num_parallel):
        steps = success_step[start : start + num_parallel]
        finished = np.where(steps > 0, steps, horizon).cumsum(1)  # (G, E) the clock when each episode ends
        goal = np.broadcast_to(np.arange(len(steps))[:, None], steps.shape)
        order = np.lexsort((goal.flatten(), finished.flatten()))  # at the same step in the order of the environments
        rates.append((steps.flatten()[order[:NUM_COUNTED]] > 0).mean())
    return float(np.mean(rates))
