"""tabular-mdp: random Markov decision processes with hidden transitions and rewards.

TASK PARAMETERS (interpolation and extrapolation: none, as in the paper)
    transition    1   (num_states, num_actions, num_states)   P(s' | s, a), flat Dirichlet
    reward_mean   1   (num_states, num_actions)               N(1, 1)

ACTION       0 .. num_actions - 1
OBSERVATION  num_states numbers, the state as a one-hot vector
REWARD       N(reward_mean[s, a], 1) of the state s in which the action was taken
START        state 0
END          after 10 control steps
SUCCESS      none

Source: Duan et al. 2016, "RL^2", section 3.2, after Osband et al. 2013; rllab's random_tabular_mdp_env.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.env import EnvSpec, Noise, Outcome, Start
from metarl.errors import SpecError
from metarl.tasks import Normal, Parameter, Simplex, TaskDistribution
from metarl.types import Arrays, Discrete


def make_spec(num_states: int = 10, num_actions: int = 5, horizon: int = 10) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        num_states: the paper has 10.
        num_actions: the paper has 5.
        horizon: control steps of an episode; the paper has 10.

    Raises:
        SpecError: fewer than two states or actions.
    """
    if num_states < 2 or num_actions < 2:
        raise SpecError(
            f"tabular-mdp: num_states and num_actions must be at least 2, got {num_states} and {num_actions}."
        )
    tasks = TaskDistribution(
        (
            Parameter("transition", "1", Simplex(), "P(s' | s, a)", shape=(num_states, num_actions, num_states)),
            Parameter("reward_mean", "1", Normal(1.0, 1.0), "of a state and action", shape=(num_states, num_actions)),
        )
    )
    return EnvSpec(
        name="tabular-mdp",
        tasks=tasks,
        obs_dim=num_states,
        action_space=Discrete(num_actions),
        horizon=horizon,
        reset=_reset,
        observe=lambda task, data, state: state["occupied"],
        step=_step,
        step_noise=(1, 1),
        description=f"random MDP, {num_states} states, {num_actions} actions",
    )


def _reset(task: Arrays, noise: Noise) -> Start:
    occupied = torch.zeros_like(task["reward_mean"][:, :, 0])  # (N, S) one-hot
    occupied[:, 0] = 1.0
    return Start(state={"occupied": occupied}, writes={})


def _step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    num_states, num_actions = task["reward_mean"].shape[1:]
    choice = torch.nn.functional.one_hot(action, num_actions).to(torch.float32)  # (N, A)
    state_action = state["occupied"].unsqueeze(2) * choice.unsqueeze(1)  # (N, S, A) one-hot
    reward = (state_action * task["reward_mean"]).sum((1, 2)) + noise.normal[:, 0]
    next_probability = (state_action.unsqueeze(3) * task["transition"]).sum((1, 2))  # (N, S)
    # s' is the number of states whose cumulative probability lies below a uniform number.
    below = next_probability.cumsum(1)[:, :-1] <= noise.uniform[:, :1]
    next_state = torch.nn.functional.one_hot(below.sum(1), num_states).to(torch.float32)
    return Outcome({"occupied": next_state}, reward, torch.zeros_like(reward, dtype=torch.bool))
