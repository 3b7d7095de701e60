"""Learned shaping on a MuJoCo car: how few episodes a policy needs to learn an unseen track, by what it maximises.

All contenders start from one policy that drives but does not know its task (domain-randomised, `--start`), and learn
each unseen task by policy-gradient steps on E episodes each:

    learned reward        policy and inner reward meta-trained together (`--inner-reward reward`)
    maml                  the same meta-training, inner steps on the environment's hand-designed reward
    hand shaping          the same, inner steps on a shaped reward that a person wrote with the same signals
    ppo                   no meta-training: PPO on the hand-designed reward, step size and lambda tuned on training tasks
    ppo, hand shaping     the same on the shaped reward
    ppo from nothing      PPO on the hand-designed reward from random weights, tuned likewise

The meta-trained ones share settings, seeds and environment steps. Runs lie in RUNS/CONTENDER-seedS and are gone on with.

    python scripts/bench_track_losses.py --seeds 0 --total-steps 2000000
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import RESULTS, save, show
from numpy.typing import NDArray
from reproduce import describe, trained
from torch import Tensor

import envs
from metarl.config import RunConfig
from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import MetarlError
from metarl.learners import preset
from metarl.learners.gradient import GradientLearner
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.losses.formula import Formula, write_formula
from metarl.plots import budget_curve
from metarl.rollout import Adapts
from metarl.run import LoadedRun
from metarl.seeding import make_generator
from metarl.start_policy import PREFIX
from metarl.statistics import bootstrap, bootstrap_difference

ENV = "track"
LINE = "abs(line_offset)", "abs(line_offset + change_of_line_offset)"
SHAPINGS = {
    "distance": f"reward - {LINE[1]}",
    "far distance": f"reward - 4 * {LINE[1]}",
    "approach": f"reward + 10 * ({LINE[0]} - {LINE[1]})",
    "approach, strong": f"reward + 40 * ({LINE[0]} - {LINE[1]})",
}
"""Rewards that a person would write to lead the car to the swept line; the best one on training tasks is taken."""
STEP_SIZES = (0.01, 0.03, 0.1, 0.3)
DISCOUNT, GAE_LAMBDA = 0.97, 0.9
META = ("learned reward", "maml", "hand shaping")
TUNING_TASKS = 16

METRIC = (
    "undiscounted return of an episode, mean over the E episodes of each task after k inner steps on E episodes each; "
    "IQM over seeds and tasks with 95 % interval; minus_X: learned reward less X on the same tasks, same k"
)


@dataclass(frozen=True)
class Line:
    """An adaptation curve for `metarl.plots`."""

    iqm_return: list[float]
    ci95_return: list[list[float]]
    env_steps_spent: list[int]
    success_rate: None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("runs/track/domain-randomised"), help="run to start from")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of meta-training")
    parser.add_argument("--total-steps", type=int, default=2_000_000, help="of meta-training")
    parser.add_argument("--episodes-per-task", type=int, default=10, help="before and after each inner step")
    parser.add_argument("--num-updates", type=int, default=10, help="inner steps that are judged")
    parser.add_argument("--num-tasks", type=int, default=40, help="unseen tasks of each split")
    parser.add_argument("--splits", nargs="+", default=["grip", "test"])
    parser.add_argument("--only", nargs="+", choices=META, default=META, help="some of the meta-trained contenders")
    parser.add_argument("--train-only", action="store_true", help="leave the judging to a later call")
    parser.add_argument("--threads", type=int, default=2, help="of physics and of updates")
    parser.add_argument("--runs", type=Path, default=Path("runs/track"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_track_losses.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        start = load_run(arguments.start)
        ppo, tuned = tuned_ppo(start, arguments.episodes_per_task, arguments.num_updates)
        runs = {
            name: [trained(*meta_training(name, arguments, start, seed, tuned)) for seed in arguments.seeds]
            for name in arguments.only
        }
        if not arguments.train_only:
            report(arguments, start, runs, ppo, tuned)
    except MetarlError as error:
        parser.exit(2, f"bench_track_losses: {error}\n")


def tuned_ppo(
    start: LoadedRun, episodes_per_task: int, num_updates: int
) -> tuple[dict[str, Callable[[BatchedEnv], Rollout]], dict[str, Any]]:
    """PPO by each reward, with the step size, and of the shaped ones the shaping, that earns most on training tasks.

    Returns:
        By contender: what lets it adapt to the tasks of worlds. And what was chosen, and from what.
    """
    candidates = {
        "ppo": [(size, None, True) for size in STEP_SIZES],
        "ppo, hand shaping": [(size, name, True) for name in SHAPINGS for size in STEP_SIZES],
        "ppo from nothing": [(size, None, False) for size in STEP_SIZES],
    }
    spec = start.spec
    tasks = spec.tasks.sample("train", TUNING_TASKS, make_generator(1, "tuning"))
    chosen, found = {}, {}
    for contender, grid in candidates.items():
        tried = [partial(adapt, ppo_learner(start, *one, episodes_per_task), start, one[2], num_updates) for one in grid]
        returns = [float(returns_of(one, spec, tasks, episodes_per_task, seed=1)[:, 1:].mean()) for one in tried]
        best = int(np.argmax(returns))
        chosen[contender] = tried[best]
        found[contender] = {
            "step_size": grid[best][0],
            "shaping": grid[best][1],
            "grid": [{"step_size": g[0], "shaping": g[1], "mean_return": r} for g, r in zip(grid, returns, strict=True)],
        }
        print(contender, found[contender], flush=True)
    return chosen, found


def ppo_learner(
    start: LoadedRun, step_size: float, shaping: str | None, from_start: bool, episodes_per_task: int
) -> LearnedLossLearner:
    """PPO with one step size on the hand-designed or on a shaped reward, for policies like the one to start from."""
    config = LearnedLossConfig(
        loss="feedback" if shaping is None else formula_name(shaping, step_size),
        inner_lr=step_size,
        inner_epochs=5,
        discount=DISCOUNT,
        inner_lambda=GAE_LAMBDA,
        adapts_to_task=False,
        learns_step_size=False,
        episodes_per_task=episodes_per_task,
        policy_dims=(start.config.settings.hidden_dim,) * 3,
        normalizes_obs=True,
    )
    learner = LearnedLossLearner(start.spec, config, 0)
    learner.obs_normalizer.load_state_dict(start.learner.network.obs_normalizer.state_dict())
    return learner


def formula_name(shaping: str, step_size: float = 0.1) -> str:
    """A shaped reward as the setting of a learner."""
    formula = Formula("reward", SHAPINGS[shaping], ("line_offset",), 20.0, DISCOUNT, GAE_LAMBDA, ((step_size,) * 3,))
    return f"{PREFIX_OF_FORMULA}{json.dumps(formula.to_json())}"


def adapt(
    learner: LearnedLossLearner, start: LoadedRun, from_start: bool, num_updates: int, env: BatchedEnv, seed: int
) -> Rollout:
    """A trial of PPO, from the policy to start from or from random weights."""
    starts = None
    if from_start:
        one = start_from(
            f"{PREFIX}{start.path}", learner.policy, learner.policy.initial_parameters(torch.Generator()), RunningNormalizer(start.spec.obs_dim)
        )
        starts = {name: value.expand(env.num_tasks, *value.shape) for name, value in one.items()}
    return learner.trial(env, num_updates + 1, make_generator(seed, "evaluation"), starts=starts)


def meta_training(
    name: str, arguments: argparse.Namespace, start: LoadedRun, seed: int, tuned: Mapping[str, Any]
) -> tuple[Path, RunConfig]:
    """The folder and the configuration of a meta-trained contender; they differ in the inner reward alone."""
    inner_reward = {
        "learned reward": "reward",
        "maml": "own",
        "hand shaping": formula_name(tuned["ppo, hand shaping"]["shaping"]),
    }[name]
    settings = replace(
        preset("meta-sgd", ENV),
        total_steps=arguments.total_steps,
        episodes_per_task=arguments.episodes_per_task,
        hidden_dims=(start.config.settings.hidden_dim,) * 3,
        start=f"{PREFIX}{start.path}",
        inner_reward=inner_reward,
        max_kl=0.02,
        num_cg_iterations=5,
        update_threads=arguments.threads,
    )
    config = RunConfig("meta-sgd", ENV, settings, seed=seed, physics_threads=arguments.threads)
    return arguments.runs / f"{name.replace(' ', '-')}-seed{seed}", config


def returns_of(
    trial: Callable[[BatchedEnv, int], Rollout], spec: EnvSpec, tasks: Tensor, episodes_per_task: int, seed: int = 0
) -> NDArray:
    """Returns after each number of updates, (B, K + 1), means over the episodes of a task."""
    env = BatchedEnv(spec, len(tasks) * episodes_per_task, seed=seed)
    env.set_tasks(tasks)
    returns = trial(env, seed).episode_returns()  # (K + 1, N)
    return returns.unflatten(1, (len(tasks), -1)).mean(2).T.double().numpy()
