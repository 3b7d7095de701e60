"""Sinusoid regression (Finn et al. 2017): the mean squared error after 0, 1, 5 and 10 gradient steps on a few points.

Amplitude uniform in [0.1, 5], phase in [0, pi], input in [-5, 5]; a ReLU network of 1-40-40-1 units, one inner step
of 0.01 in meta-training, 25 tasks per update, Adam 1e-3; judged on 600 unseen sines, 100 points each, the same for
all learners and seeds. As many query points as support points in meta-training, as published. Intervals are 1.96
standard errors over tasks. A neural process takes no steps and has one number. "all tasks" is the same network trained
on all tasks at once, which no step prepares for. Runs are added to those that the file holds already.

The seeds of a learner that adapts weights by gradients are trained side by side: at this size a meta-iteration costs
calls, not arithmetic, so that three seeds take little longer than one. Each has the tasks that it would have alone.

    python scripts/fewshot_sinusoid.py --learners maml --shots 5           # 3 minutes on one thread
    python scripts/fewshot_sinusoid.py --lr-schedule cosine --iterations 30000 --seeds 0 1 2
    python scripts/fewshot_sinusoid.py --quick                             # does it run? seconds, into runs/quick/
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _measure import RESULTS, circumstances, save, show
from torch import Tensor
from torch.utils._pytree import tree_map

from metarl.fewshot.learners import default_settings, make_learner
from metarl.fewshot.learners.cnp import CNP
from metarl.fewshot.learners.gradient import GradientLearner
from metarl.fewshot.tasks import Task, tasks_of
from metarl.fewshot.types import Episode, FollowsProgress, UpdatesItself
from metarl.losses.sines import sample_sines
from metarl.seeding import make_generator

LEARNERS = ("all tasks", "maml", "fomaml", "anil", "meta-sgd", "maml++", "reptile", "abml", "bmaml", "platipus", "cnp")
SETTINGS: dict[str, dict[str, Any]] = {
    "all tasks": {"num_inner_steps": 0},
    "reptile": {"num_inner_steps": 5, "inner_lr": 0.02, "inner_optimizer": "sgd", "minibatch_size": 0, "outer_lr": 0.5},
    "maml++": {"num_inner_steps": 5, "inner_lr": 0.01},
    "anil": {"num_inner_steps": 1},
    "bmaml": {"num_inner_steps": 1, "adapts": "all"},
    "cnp": {"targets": "numbers"},
}
STEPS = (0, 1, 5, 10)
META_BATCH_SIZE = 25
NUM_TASKS, NUM_QUERIES = 600, 100
PUBLISHED = {
    "source": "Finn et al. 2017, appendix: 5 points, after 1, 5 and 10 steps",
    "maml": [0.67, 0.38, 0.35],
    "pretrained on all tasks": [2.41, 2.23, 2.19],
}


@dataclass(frozen=True)
class Training:
    """How a learner is meta-trained.

    Attributes:
        shots: points of a support, and as many queries.
        iterations: updates of 25 tasks.
        lr: Adam's step size at the start.
        lr_schedule: it is "constant", or falls to zero along half a "cosine".
    """

    shots: int
    iterations: int
    lr: float = 1e-3
    lr_schedule: str = "constant"

    def lr_at(self, progress: float) -> float:
        """Adam's step size after this share of the training."""
        return self.lr * (0.5 * (1 + math.cos(math.pi * progress)) if self.lr_schedule == "cosine" else 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=["maml"])
    parser.add_argument("--shots", nargs="+", type=int, default=[5], help="points of a support")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--iterations", type=int, default=70_000, help="updates, of 25 tasks each")
    parser.add_argument("--lr", type=float, default=1e-3, help="step size of Adam at the start; published: 0.001")
    parser.add_argument("--lr-schedule", choices=("constant", "cosine"), default="constant", help="published: constant")
    parser.add_argument("--inner-lr", type=float, default=0.01)
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="sines that are judged")
    parser.add_argument("--out", type=Path, default=RESULTS / "fewshot-sinusoid.json")
    parser.add_argument("--quick", action="store_true", help="50 updates, into runs/quick/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.quick:
        arguments.iterations, arguments.out = 50, Path("runs/quick/fewshot-sinusoid.json")
    runs = previous(arguments.out)
    for shots in arguments.shots:
        training = Training(shots, arguments.iterations, arguments.lr, arguments.lr_schedule)
        for name in arguments.learners:
            for found in train_and_judge(name, training, arguments.seeds, arguments.inner_lr, arguments.split):
                found = {**found, **where_and_when()}
                runs = [r for r in runs if key(r) != key(found)] + [found]
            save(arguments.out, {"name": "fewshot-sinusoid", "published": PUBLISHED, "runs": runs})
    rows = []
    for r in sorted(runs, key=key):
        found = [interval(mean, half) for mean, half in zip(r["mse"], r["ci95"], strict=True)]
        found = ["-"] * (len(STEPS) - len(found)) + found
        trained = (f"{r['iterations'] / 1000:g} k", f"{r['lr']:g} {r['lr_schedule']}")
        rows.append((r["learner"], str(r["shots"]), *trained, str(r["seed"]), *found))
    columns = ("learner", "points", "updates", "step size", "seed", *(f"{step} steps" for step in STEPS))
    show(f"mean squared error on {NUM_TASKS} unseen sines", columns, rows)


def previous(path: Path) -> list[dict[str, Any]]:
    """The runs of earlier commands, which stay in the file."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def key(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run is replaced by another one for."""
    return tuple(run[name] for name in ("shots", "learner", "lr", "lr_schedule", "iterations", "seed"))


def where_and_when() -> dict[str, Any]:
    """The command, commit and date of a run, as those of the file are of the last call."""
    now = circumstances()
    return {name: now[name] for name in ("command", "commit", "date")}


def train_and_judge(
    name: str, training: Training, seeds: Sequence[int], inner_lr: float, split: str
) -> list[dict[str, Any]]:
    """Meta-train a learner from each seed, and judge it."""
    adapts = {} if name == "cnp" else {"inner_lr": inner_lr}
    changes = {"hidden_dim": 40, "norm": "none"} | adapts | SETTINGS.get(name, {})
    kind = "maml" if name == "all tasks" else name
    settings = replace(default_settings(kind), **changes)
    learners: list[Any] = [make_learner(kind, settings, (1,), 1, make_generator(seed, "weights")) for seed in seeds]
    started = time.process_time()
    if isinstance(learners[0], GradientLearner) and not isinstance(learners[0], UpdatesItself):
        train_side_by_side(learners, training, seeds)
    else:
        for learner, seed in zip(learners, seeds, strict=True):
            train(learner, training, seed)
    about = {
        "learner": name,
        "shots": training.shots,
        "iterations": training.iterations,
        "lr": training.lr,
        "lr_schedule": training.lr_schedule,
        "settings": changes,
        "split": split,
        "cpu_s": (time.process_time() - started) / len(seeds),
    }
    judged = [judge(learner, training.shots, split) for learner in learners]
    return [{**about, "seed": seed, **of_seed} for seed, of_seed in zip(seeds, judged, strict=True)]


def train(learner: Any, training: Training, seed: int) -> None:
    """Meta-train one learner."""
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad])
    tasks, noise = make_generator(seed, "train sines"), make_generator(seed, "learner")
    for iteration in range(training.iterations):
        progress = iteration / training.iterations
        episode = sines(META_BATCH_SIZE, training.shots, training.shots, tasks)
        if isinstance(learner, FollowsProgress):
            learner.set_progress(progress)
        if isinstance(learner, UpdatesItself):
            learner.update(episode, noise)
            continue
        loss, _ = learner.loss(episode, noise)
        _step(optimizer, loss, training.lr_at(progress))


def train_side_by_side(learners: Sequence[GradientLearner], training: Training, seeds: Sequence[int]) -> None:
    """Meta-train one learner from several seeds, S of them stacked; otherwise the same as one after the other."""
    first = learners[0]
    parameters = [dict(learner.named_parameters()) for learner in learners]
    stacked = {name: torch.stack([p[name].detach() for p in parameters]).requires_grad_() for name in parameters[0]}
    optimizer = torch.optim.Adam(stacked.values())
    sources = [(make_generator(seed, "train sines"), make_generator(seed, "learner")) for seed in seeds]

    def draw(tasks: torch.Generator, noise: torch.Generator) -> Task:
        episode = sines(META_BATCH_SIZE, training.shots, training.shots, tasks)
        return tasks_of(episode, first.noise(META_BATCH_SIZE, noise, True))

    def loss(meta: Mapping[str, Tensor], task: Task) -> Tensor:
        return first.task_loss(meta, task)[0]

    losses = torch.func.vmap(torch.func.vmap(loss, in_dims=(None, 0)))
    for iteration in range(training.iterations):
        progress = iteration / training.iterations
        if isinstance(first, FollowsProgress):
            first.set_progress(progress)
        tasks = tree_map(lambda *of_seeds: torch.stack(of_seeds), *[draw(*source) for source in sources])
        _step(optimizer, losses(stacked, tasks).mean(1).sum(), training.lr_at(progress))  # (S, B) -> (S,) -> ()
    with torch.no_grad():
        for i, own in enumerate(parameters):
            for name, parameter in own.items():
                parameter.copy_(stacked[name][i])


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def judge(learner: Any, shots: int, split: str) -> Mapping[str, list[float | None]]:
    """Mean squared errors after each of `STEPS`, and half the width of their intervals."""
    episode = sines(NUM_TASKS, shots, NUM_QUERIES, make_generator(0, f"{split} sines"))
    if isinstance(learner, CNP):
        predictions = [learner.predict(episode, make_generator(0, "test noise"))]  # (B, Q, 1)
    else:
        predictions = [learner.predict(episode, make_generator(0, "test noise"), step) for step in STEPS]
    errors = torch.stack([(p - episode.query_y).square().mean((1, 2)) for p in predictions])  # (steps, B)
    means, deviations = errors.mean(1).tolist(), errors.std(1).tolist()
    return {
        "mse": [mean if math.isfinite(mean) else None for mean in means],  # more steps than were trained may diverge
        "ci95": [1.96 * std / math.sqrt(NUM_TASKS) if math.isfinite(std) else None for std in deviations],
    }


def sines(num_tasks: int, shots: int, queries: int, generator: torch.Generator) -> Episode:
    """Tasks of `shots` support and `queries` query points."""
    points = sample_sines(
        num_tasks,
        generator,
        num_points=shots + queries,
        amplitude=(0.1, 5.0),
        phase_rad=(0.0, math.pi),
        input_rad=(-5.0, 5.0),
    )

    def part(chosen: slice) -> tuple[Tensor, Tensor, Tensor]:
        x, y = points.input[:, chosen], points.target[:, chosen]
        return x, y, torch.ones(x.shape[:2], dtype=torch.bool)

    return Episode(*part(slice(shots)), *part(slice(shots, None)), num_ways=1)


def interval(mean: float | None, half_width: float | None) -> str:
    return "diverges" if mean is None or half_width is None else f"{mean:.2f} ± {half_width:.2f}"


if __name__ == "__main__":
    main()
