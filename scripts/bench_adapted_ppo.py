"""What stable-baselines3's PPO makes of a learned reward that adapts to its task: one policy per unseen task.

Each task is trained on with its feedback alone, with the learned reward as it is for the typical task, and with the
same reward after four policies with random weights played 16 episodes each on the task (`LearnedLoss.adapted`).

    python scripts/bench_adapted_ppo.py runs/either/adapts-seed0 --env reach-either --split dynamics
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import RESULTS, save, show
from bench_adaptation import numbers
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

import envs
from metarl.errors import MetarlError
from metarl.learned_loss import LearnedLoss
from metarl.sb3_adapter import SB3VecEnv, ShapedRewards
from metarl.statistics import bootstrap, bootstrap_difference

NUM_WORLDS, POLICIES, FIRST_EPISODES, EPISODES = 16, 4, 16, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="of learned-loss, with a reward; or the file of a formula")
    parser.add_argument("--env", default="reach-either")
    parser.add_argument("--split", default="dynamics")
    parser.add_argument("--num-tasks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=15_000, help="environment steps of PPO on each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_adapted_ppo.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        measure(arguments)
    except MetarlError as error:
        parser.exit(2, f"bench_adapted_ppo: {error}\n")


def measure(arguments: argparse.Namespace) -> None:
    spec = envs.make_spec(arguments.env)
    is_formula = arguments.run.endswith(".json")
    typical = LearnedLoss.from_formula(arguments.run) if is_formula else LearnedLoss.load(arguments.run)
    returns: dict[str, list[float]] = {"before": [], "feedback": [], "typical": [], "adapted": []}
    for task in spec.tasks.split(arguments.split, arguments.num_tasks):
        adapted = typical.adapted(spec, task, num_policies=POLICIES, num_episodes=FIRST_EPISODES, seed=arguments.seed)
        for name, loss in (("feedback", None), ("typical", typical), ("adapted", adapted)):
            before, after = trained(arguments, task, loss)
            returns[name].append(after)
        returns["before"].append(before)
        print({name: round(of_tasks[-1], 2) for name, of_tasks in returns.items()}, flush=True)
    scores = {name: np.array([of_tasks]) for name, of_tasks in returns.items()}  # (1, B)
    result: dict[str, Any] = {
        "run": arguments.run,
        "env": arguments.env,
        "split": arguments.split,
        "num_tasks": arguments.num_tasks,
        "steps_per_task": arguments.steps,
        "episodes_before": POLICIES * FIRST_EPISODES,
        "seed": arguments.seed,
        "metric": "return by the own reward, IQM over tasks with 95 % interval, paired where less another",
        "returns": {name: numbers(bootstrap(of, rng())) for name, of in scores.items()},
        "adapted_minus": {
            name: numbers(bootstrap_difference(scores["adapted"], scores[name], rng(), same_runs=True))
            for name in ("feedback", "typical")
        },
        "of_tasks": returns,
    }
    save(arguments.out, result)
    show(
        "IQM of the return",
        ["loss", "return"],
        [[name, f"{value[0]:.2f}"] for name, value in result["returns"].items()],
    )


def trained(arguments: argparse.Namespace, task: Tensor, loss: LearnedLoss | None) -> tuple[float, float]:
    """Mean returns before and after PPO."""
    worlds = VecMonitor(SB3VecEnv(arguments.env, NUM_WORLDS, task=task))
    gamma = 0.99 if loss is None else loss.discount(0.99)
    horizon = envs.make_spec(arguments.env).horizon
    model = PPO(
        "MlpPolicy", ShapedRewards(worlds, loss), n_steps=2 * horizon, gamma=gamma, seed=arguments.seed, device="cpu"
    )
    before, _ = evaluate_policy(model, worlds, n_eval_episodes=EPISODES, deterministic=False)
    model.learn(arguments.steps)
    after, _ = evaluate_policy(model, worlds, n_eval_episodes=EPISODES, deterministic=False)
    return float(before), float(after)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


if __name__ == "__main__":
    main()
