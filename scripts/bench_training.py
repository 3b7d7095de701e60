"""Our RL² against sb3-contrib's RecurrentPPO trained as RL²: environment steps per second, and return after equal time.

RecurrentPPO sees trials through `TrialVectorEnv`, so that both learn the same thing from the same inputs. All take
turns in one process: whoever has trained for the shortest time makes the next update, until each has had its
minutes, so a busy machine slows them alike. Afterwards all are judged by `metarl.evaluate` on unseen tasks.

    python scripts/bench_training.py --envs half-cheetah-vel-pearl reach-planar --minutes 20
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch
from _measure import RESULTS, save, show
from gymnasium.spaces import Box
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import envs
from metarl.env import BatchedEnv, EnvSpec
from metarl.evaluate import evaluate
from metarl.learners import preset
from metarl.learners.rl2 import RL2, RL2Config
from metarl.rollout import collect
from metarl.sb3_adapter import SB3VecEnv
from metarl.seeding import make_generator
from metarl.statistics import bootstrap
from metarl.trial_env import TrialVectorEnv
from metarl.types import Act, PolicyInput, Rollout

OnStep = Callable[[BatchedEnv], None]
ENVS = ("half-cheetah-vel-pearl", "reach-planar")
OURS = "metarl rl2"
NOTES = {
    "equal": [
        "environment, engine, tasks, episodes per trial, inputs (observation, previous action, reward and done)",
        "layers and width: encoder, recurrent layer, then one layer and a head each for actor and critic; tanh",
        "steps per update, minibatches, epochs, Adam, discount, GAE lambda, clip, loss weights, gradient clip",
        "step size and entropy bonus, annealed to a tenth over the minutes; the KL at which an update stops",
        "running normalisation of observations, and of rewards by the spread of the discounted return",
    ],
    "different": [
        "the kind of memory where the preset has a GRU: RecurrentPPO has LSTMs only",
        "threads of an update: the preset's update_threads here, --torch-threads there",
        "actor and critic share encoder and GRU here; there the critic has its own LSTM (the default), or with "
        "'shared' it reads the actor's, which then learns from the actor alone",
        "32 worlds is how RecurrentPPO was measured before; with as many worlds as ours it makes the same steps per "
        "update in shorter rollouts",
        "minibatches are whole trials here; there sequences cut at random places, begun from stored states",
        "RecurrentPPO always bootstraps through the time limit at the end of a trial; here the preset says whether",
        "the first update of rl2 only sets the scales of observations and rewards",
    ],
}


class Contender(Protocol):
    """Somebody who learns, one update at a time."""

    def update(self, progress: float) -> int:
        """Collect trials and learn from them; returns the environment steps. `progress` is the share of the time."""
        ...

    def trial(
        self, env: BatchedEnv, num_episodes: int, generator: torch.Generator | None, on_step: OnStep | None = None
    ) -> Rollout:
        """See `metarl.learners.Learner.trial`."""
        ...


@dataclass
class Training:
    """A contender and the clock of its updates: environment steps and seconds of each."""

    contender: Contender
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def advance(self, limit_s: float) -> None:
        started = time.perf_counter()
        self.steps.append(self.contender.update(min(sum(self.seconds) / limit_s, 1.0)))
        self.seconds.append(time.perf_counter() - started)

    @property
    def steps_per_s(self) -> float:
        """Median over updates but the first, which warms up, and from which rl2 does not learn."""
        rates = [steps / seconds for steps, seconds in zip(self.steps, self.seconds, strict=True)]
        return median(rates[1:] or rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS), help="environments by name")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each contender and seed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--rivals",
        nargs="+",
        metavar="WORLDS[-shared]",
        help="worlds of each RecurrentPPO, and whether its critic shares the LSTM; "
        "default 32, as many as ours, and as many as ours shared",
    )
    parser.add_argument("--num-worlds", type=int, help="worlds of ours, and so steps per update; default the preset's")
    parser.add_argument("--num-tasks", type=int, default=64, help="unseen tasks to be judged on")
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.torch_threads)

    results = []
    for name in arguments.envs:
        spec, settings = envs.make_spec(name), preset("rl2", name)
        settings = replace(settings, num_worlds=arguments.num_worlds or settings.num_worlds)
        rivals = arguments.rivals or ["32", f"{settings.num_worlds}", f"{settings.num_worlds}-shared"]
        for rival in rivals:
            digits = rival.removesuffix("-shared")
            if not digits.isdigit() or not int(digits) or settings.num_worlds % int(digits):
                parser.error(f"--rivals {rival}: the worlds must divide the {settings.num_worlds} of ours on {name}.")
        makers: dict[str, Callable[[int], Contender]] = {OURS: partial(Ours, spec, settings)}
        for rival in rivals:
            makers[_label(rival)] = partial(Rival, spec, settings, rival)
        rows = _compare(spec, makers, settings, arguments)
        results.append({"env": name, "settings": asdict(settings), "contenders": rows})
        _show(name, rows, arguments.minutes)
    save(
        arguments.out,
        {
            "minutes": arguments.minutes,
            "seeds": arguments.seeds,
            "num_tasks": arguments.num_tasks,
            "torch_threads": arguments.torch_threads,
            "notes": NOTES,
            "results": results,
        },
    )


def _compare(
    spec: EnvSpec, makers: dict[str, Callable[[int], Contender]], settings: RL2Config, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Train and judge all contenders once per seed; a row for each, ours first."""
    limit_s = 60 * arguments.minutes
    runs: dict[str, list[Training]] = {name: [] for name in makers}
    returns: dict[str, list[list[list[float]]]] = {name: [] for name in makers}  # (seed, task, episode)
    for seed in arguments.seeds:
        trainings = {name: Training(make(seed)) for name, make in makers.items()}
        while waiting := [t for t in trainings.values() if sum(t.seconds) < limit_s]:
            min(waiting, key=lambda t: sum(t.seconds)).advance(limit_s)
        for name, training in trainings.items():
            evaluation = evaluate(
                training.contender,
                spec,
                algorithm=name,
                num_tasks=arguments.num_tasks,
                num_episodes=settings.episodes_per_trial,
            )
            runs[name].append(training)
            returns[name].append(evaluation.returns)
    return [_row(name, runs[name], runs[OURS], returns[name]) for name in makers]


def _row(
    name: str, trainings: list[Training], ours: list[Training], returns: list[list[list[float]]]
) -> dict[str, Any]:
    estimate = bootstrap(returns, np.random.default_rng(0))
    ratios = [a.steps_per_s / b.steps_per_s for a, b in zip(ours, trainings, strict=True)]
    return {
        "contender": name,
        "steps_per_s": median(training.steps_per_s for training in trainings),
        "ours_is_faster_by": median(ratios),
        "updates": [len(training.steps) for training in trainings],
        "env_steps": [sum(training.steps) for training in trainings],
        "seconds": [sum(training.seconds) for training in trainings],
        "iqm_return": estimate.value.tolist(),
        "ci95_return": np.stack([estimate.low, estimate.high], 1).tolist(),
        "mean_return_per_seed": np.mean(returns, 1).tolist(),
    }


def _show(name: str, rows: list[dict[str, Any]], minutes: float) -> None:
    cells = []
    for row in rows:
        returns = [
            f"{value:.1f} [{low:.1f}, {high:.1f}]"
            for value, (low, high) in zip(row["iqm_return"], row["ci95_return"], strict=True)
        ]
        speed = (f"{row['steps_per_s']:,.0f}", f"{row['ours_is_faster_by']:.1f}x", f"{np.mean(row['env_steps']):,.0f}")
        cells.append((row["contender"], *speed, *returns))
    columns = ("contender", "steps/s", "ours is", "steps")
    episodes = tuple(f"episode {k + 1}" for k in range(len(rows[0]["iqm_return"])))
    show(f"{name}, {minutes:g} minutes each; IQM return on unseen tasks", columns + episodes, cells)


class Ours:
    """RL² with the environment's preset."""

    def __init__(self, spec: EnvSpec, settings: RL2Config, seed: int):
        self.spec = spec
        self.learner = RL2(spec, settings, seed)
        self.env = BatchedEnv(spec, settings.num_worlds, seed=seed)
        self.tasks = make_generator(seed, "tasks")

    def update(self, progress: float) -> int:
        self.env.set_tasks(self.spec.tasks.sample_train(self.env.num_worlds, self.tasks))
        rollout = self.learner.collect(self.env)
        self.learner.update(rollout, progress)
        return rollout.reward.numel()

    def trial(
        self, env: BatchedEnv, num_episodes: int, generator: torch.Generator | None, on_step: OnStep | None = None
    ) -> Rollout:
        return self.learner.trial(env, num_episodes, generator, on_step)


class Rival:
    """RecurrentPPO on trials, with the same settings; also the policy that it has learned.

    Args:
        spec: the environment.
        settings: those of ours.
        rival: its number of worlds, with "-shared" where the critic shares the LSTM.
        seed: of everything random.
    """

    def __init__(self, spec: EnvSpec, settings: RL2Config, rival: str, seed: int):
        num_worlds, is_shared = int(rival.removesuffix("-shared")), rival.endswith("-shared")
        steps_per_update = settings.num_worlds * settings.episodes_per_trial * spec.horizon
        trials = SB3VecEnv(TrialVectorEnv(spec, num_worlds, settings.episodes_per_trial))
        self.env = VecNormalize(trials, gamma=settings.discount)
        self.learning_rate = settings.learning_rate
        width = settings.hidden_dim
        self.model = RecurrentPPO(
            "MlpLstmPolicy",
            self.env,
            learning_rate=lambda _: self.learning_rate,
            n_steps=steps_per_update // num_worlds,
            batch_size=steps_per_update // settings.num_minibatches,
            n_epochs=settings.num_epochs,
            gamma=settings.discount,
            gae_lambda=settings.gae_lambda,
            clip_range=settings.clip,
            ent_coef=settings.entropy_coef,
            vf_coef=settings.value_coef,
            max_grad_norm=settings.max_grad_norm,
            target_kl=settings.target_kl / 1.5,
            policy_kwargs={
                "features_extractor_class": Encoder,
                "features_extractor_kwargs": {"features_dim": width},
                "lstm_hidden_size": width,
                "shared_lstm": is_shared,
                "enable_critic_lstm": not is_shared,
                "net_arch": {"pi": [width], "vf": [width]},
                "log_std_init": math.log(settings.initial_std),
            },
            seed=seed,
            device="cpu",
        )
        self.settings = settings

    def update(self, progress: float) -> int:
        decay = 1 - 0.9 * progress if self.settings.anneal else 1.0
        self.learning_rate = self.settings.learning_rate * decay
        self.model.ent_coef = self.settings.entropy_coef * decay
        before = self.model.num_timesteps
        self.model.learn(1, log_interval=None, reset_num_timesteps=False)  # a rollout and its update
        return self.model.num_timesteps - before

    def trial(
        self, env: BatchedEnv, num_episodes: int, generator: torch.Generator | None, on_step: OnStep | None = None
    ) -> Rollout:
        return collect(env, self, num_episodes, generator, on_step)

    def initial_memory(self, num_worlds: int) -> None:
        """None: `predict` starts from zeros."""

    def act(self, inputs: PolicyInput, memory: Any, generator: torch.Generator | None) -> Act:
        """The likeliest action; it samples from torch's own generator where one is given."""
        signals = torch.stack([inputs.prev_reward, inputs.prev_done], 1)
        seen = self.env.normalize_obs(torch.cat([inputs.obs, inputs.prev_action, signals], 1).numpy())
        action, memory = self.model.predict(seen, memory, deterministic=generator is None)
        return Act(torch.as_tensor(action), torch.zeros(len(action)), memory)


class Encoder(BaseFeaturesExtractor):
    """The layer before the recurrent one."""

    def __init__(self, space: Box, features_dim: int):
        super().__init__(space, features_dim)
        self.layers = nn.Sequential(nn.Linear(space.shape[0], features_dim), nn.Tanh())

    def forward(self, observations: Tensor) -> Tensor:
        return self.layers(observations)


def _label(rival: str) -> str:
    worlds, _, is_shared = rival.partition("-")
    return f"RecurrentPPO, {worlds} worlds" + (", shared LSTM" if is_shared else "")


if __name__ == "__main__":
    main()
