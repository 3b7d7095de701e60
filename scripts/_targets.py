"""What `reproduce.py` trains, what it is compared with, and where the published numbers are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envs.toy import classical

_RL2 = "Duan et al. 2016 (arXiv 1611.02779), table {}: total reward of a trial, mean of 1000"
_MAML = (
    "Finn et al. 2017, the raw results in cbfinn/maml_rl icml/, mean over 40 goals; older MuJoCo, "
    "20 episodes (40 for point-navigation and ant-dir-maml) per gradient"
)
_PEARL = "logs of x35f/meta_rl results/pearl, one seed, mean of the last tenth; older MuJoCo, off-policy learning"


@dataclass(frozen=True)
class Target:
    """A reproduction.

    Attributes:
        env: name of the environment.
        published: policy -> number. Where `has_trial_sums`, a total over the trial, under the names of
            `classical_strategies`; elsewhere the return of an episode.
        source: where the published numbers are from; empty where there are none.
        preset: settings of every algorithm.
        algorithms: what is reproduced, and the lines to compare with.
        num_tasks: unseen tasks of each split.
        episodes_per_task: E of gradient learners that is judged; 0: as trained.
        num_episodes: K that is judged, one more than the inner steps of gradient learners; 0: as trained.
        has_trial_sums: the number is the total reward of a trial, not the return of each episode.
    """

    env: str
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    preset: str = "default"
    algorithms: tuple[str, ...] = ("rl2", "domain-randomised", "oracle")
    num_tasks: int = 64
    num_episodes: int = 0
    episodes_per_task: int = 0
    has_trial_sums: bool = False


def _toy(env: str, table: int, preset: str, **published: float) -> Target:
    return Target(env, published, _RL2.format(table), preset, ("rl2",), num_tasks=1000, has_trial_sums=True)


def _gradient(
    env: str, before: float, after_1: float, after_2: float, after_3: float, oracle: float, episodes: int = 20
) -> Target:
    """MAML's protocol: 40 goals, three inner steps of 4,000 environment steps each (8,000 for ant-dir)."""
    published = {
        "MAML, before": before,
        "MAML, 1 gradient": after_1,
        "MAML, 2 gradients": after_2,
        "MAML, 3 gradients": after_3,
        "MAML's oracle": oracle,
    }
    algorithms = ("maml-trpo", "promp")
    return Target(
        env, published, _MAML, algorithms=algorithms, num_tasks=40, num_episodes=4, episodes_per_task=episodes
    )


# fmt: off
TARGETS: dict[str, Target] = {
    "bandit-k5-n10": _toy("bandit", 1, "default", rl2=6.7, random=5.0, gittins=6.6, thompson=5.7,
                          optimistic_thompson=6.5, ucb1=6.7, epsilon_greedy=6.6, greedy=6.6),
    "bandit-k5-n100": _toy("bandit", 1, "n100", rl2=78.7, random=49.9, gittins=78.3, thompson=74.7,
                           optimistic_thompson=77.9, ucb1=78.0, epsilon_greedy=75.4, greedy=74.8),
    "tabular-mdp-n10": _toy("tabular-mdp", 2, "default", rl2=156.2, random=100.1, psrl=138.1, optimistic_psrl=144.1,
                            ucrl2=146.6, beb=150.2, epsilon_greedy=132.8, greedy=134.8),
    "reach-planar": Target("reach-planar"),
    "point-navigation": Target("point-navigation", {
        "MAML, before": -40.4, "MAML, 1 gradient": -11.7, "MAML, 3 gradients": -3.2, "MAML's oracle": -2.3}, _MAML),
    "track": Target("track"),
    "half-cheetah-vel-pearl": Target("half-cheetah-vel-pearl", {
        "PEARL, after its context": -44.7, "PEARL, online": -91.8}, _PEARL,
        num_tasks=30),  # the 30 that PEARL fixed, each once
    "half-cheetah-vel-maml": Target("half-cheetah-vel-maml", {
        "MAML, before": -129.5, "MAML, 1 gradient": -78.6, "MAML, 3 gradients": -60.8, "MAML's oracle": -54.5}, _MAML),
    "half-cheetah-dir": Target("half-cheetah-dir", {
        "MAML, before": -50.7, "MAML, 1 gradient": 293.2, "MAML, 3 gradients": 315.7, "MAML's oracle": 442.7}, _MAML),
    "ant-vel": Target("ant-vel", {
        "MAML, before": 30.6, "MAML, 1 gradient": 96.7, "MAML, 3 gradients": 101.4, "MAML's oracle": 107.9}, _MAML),
    "ant-dir-maml": Target("ant-dir-maml", {
        "MAML, before": 8.7, "MAML, 1 gradient": 499.1, "MAML, 3 gradients": 499.1, "MAML's oracle": 524.8}, _MAML),
    "point-navigation-gradient": _gradient("point-navigation", -40.4, -11.7, -3.3, -3.2, -2.3, episodes=40),
    "half-cheetah-dir-gradient": _gradient("half-cheetah-dir", -50.7, 293.2, 313.5, 315.7, 442.7),
    "half-cheetah-vel-maml-gradient": _gradient("half-cheetah-vel-maml", -129.5, -78.6, -66.6, -60.8, -54.5),
    "ant-dir-maml-gradient": _gradient("ant-dir-maml", 8.7, 499.1, 500.7, 499.1, 524.8, episodes=40),
    "ant-vel-gradient": _gradient("ant-vel", 30.6, 96.7, 100.1, 101.4, 107.9),
    "walker-rand-params": Target("walker-rand-params", {
        "PEARL, after its context": 730.0, "PEARL, online": 721.0}, _PEARL),
}
# fmt: on


def classical_strategies(env: str) -> dict[str, Any]:
    """The columns of RL²'s tables that are computed again: Gittins at discount 0.99, UCB1 at c = 0.2, epsilon 0.05.

    The other columns are compared with as they were published.
    """
    if env == "bandit":
        return {
            "random": classical.random_arm,
            "gittins": classical.gittins(0.99, num_observations=150, num_levels=1000),
            "thompson": classical.thompson_sampling,
            "ucb1": classical.ucb1(0.2),
            "epsilon_greedy": classical.epsilon_greedy(0.05),
            "greedy": classical.greedy_arm,
        }
    return {
        "random": classical.random_plan,
        "psrl": classical.psrl,
        "epsilon_greedy": classical.epsilon_greedy_plan(0.05),
        "greedy": classical.greedy_plan,
    }
