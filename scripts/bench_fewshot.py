"""Seconds of a meta-iteration of MAML against a Python loop over tasks, and accuracy against seconds of training.

The loop is the same algorithm as learn2learn writes it: for each task a clone of the module, whose parameters are
replaced by those after an inner step of `torch.autograd.grad(create_graph=True)`, and a backward pass of its own. Where
learn2learn itself is installed, or a checkout named, it is timed too (its last release does not build for Python 3.11,
but what MAML needs of it is pure Python). A meta-iteration is loss, backward pass and step of Adam.

Contenders take turns in one process on one thread; seconds are those of the process on the CPU, which a busy machine
does not change much. Images are noise: no time depends on what they show.

    python scripts/bench_fewshot.py                                        # minutes
    python scripts/bench_fewshot.py --accuracy --data-dir ../shared/data   # learners on Omniglot, --budget-s each
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _measure import RESULTS, median_ratio, paired_seconds, save, show
from torch import Tensor, nn

from metarl.fewshot.config import FewShotConfig
from metarl.fewshot.data import open_data, options_type
from metarl.fewshot.evaluate import evaluate_few_shot
from metarl.fewshot.learners.maml import MAML, MAMLSettings
from metarl.fewshot.presets import preset
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.sources import EpisodeSource
from metarl.fewshot.train import FewShotLoop
from metarl.fewshot.types import Episode
from metarl.seeding import make_generator


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        title: for the table.
        num_tasks, num_ways, shots, queries: of the episode, the latter two for each class; one way: numbers.
        x_shape: of an input.
        settings: of MAML.
        repeats: meta-iterations that are timed together.
    """

    title: str
    num_tasks: int
    num_ways: int
    shots: int
    queries: int
    x_shape: tuple[int, ...]
    settings: MAMLSettings
    repeats: int = 1


_SINE = MAMLSettings(hidden_dim=40, norm="none", inner_lr=0.01)
_CONV = MAMLSettings(encoder="conv4-strided", inner_lr=0.4)
_IMAGE = (1, 28, 28)
CASES = {
    "sinusoid-1": Case("sinusoid, 25 tasks of 10 + 10 points, 1 step", 25, 1, 10, 10, (1,), _SINE, 10),
    "sinusoid-5": Case(
        "sinusoid, 25 tasks of 10 + 10 points, 5 steps", 25, 1, 10, 10, (1,), replace(_SINE, num_inner_steps=5), 10
    ),
    "conv4-1": Case("Conv4, 32 tasks 5-way 1-shot, 1 query a class, 1 step", 32, 5, 1, 1, _IMAGE, _CONV),
    "conv4-5": Case("Conv4, 32 tasks 5-way 1-shot, 5 queries a class, 1 step", 32, 5, 1, 5, _IMAGE, _CONV),
    "conv4-15": Case("Conv4, 32 tasks 5-way 1-shot, 15 queries a class, 1 step", 32, 5, 1, 15, _IMAGE, _CONV),
    "conv4-20": Case(
        "Conv4, 16 tasks 20-way 1-shot, 1 query a class, 5 steps",
        *(16, 20, 1, 1, _IMAGE),
        replace(_CONV, inner_lr=0.1, num_inner_steps=5),
    ),
    "conv4-pool": Case(
        "Conv4 with max-pooling, 32 tasks 5-way 1-shot, 1 query a class, 1 step",
        *(32, 5, 1, 1, _IMAGE),
        replace(_CONV, encoder="conv4"),
    ),
}
ACCURACY_LEARNERS = ("protonet", "matching", "relation", "gnn", "cnp", "maml", "anil", "proto-maml", "reptile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--learn2learn", type=Path, help="a checkout of learn2learn, where it is not installed")
    parser.add_argument("--accuracy", action="store_true", help="train on Omniglot instead of timing")
    parser.add_argument("--learners", nargs="+", default=list(ACCURACY_LEARNERS), help="with --accuracy")
    parser.add_argument("--budget-s", type=float, default=120.0, help="with --accuracy: CPU seconds of each learner")
    parser.add_argument("--data-dir", type=Path, help="with --accuracy: a local copy of the data")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.accuracy:
        out = arguments.out or RESULTS / "fewshot-accuracy-seconds.json"
        measure_accuracy(arguments.learners, arguments.budget_s, arguments.data_dir, out)
        return
    results, rows, maml_type = {}, [], import_learn2learn(arguments.learn2learn)
    for name in arguments.cases:
        case = CASES[name]
        seconds = meta_iteration_seconds(case, arguments.rounds, maml_type)
        ratios = {contender: median_ratio(times, seconds["loop"]) for contender, times in seconds.items()}
        results[name] = {"title": case.title, "seconds": seconds, "times_the_loop": ratios}
        rows += [
            (case.title if i == 0 else "", contender, f"{1000 * median(times):.1f}", f"{ratios[contender]:.2f}")
            for i, (contender, times) in enumerate(seconds.items())
        ]
        save(arguments.out or RESULTS / "bench_fewshot.json", {"name": "bench_fewshot", "cases": results})
    show("a meta-iteration of MAML", ("problem", "contender", "CPU ms", "times the loop's speed"), rows)


def meta_iteration_seconds(case: Case, num_rounds: int, maml_type: Any) -> dict[str, list[float]]:
    """CPU seconds of a meta-iteration of each contender, round by round."""
    episode = episode_of(case)
    calls = {
        "metarl": our_iteration(learner_of(case), episode),
        "metarl, all tasks at once": our_iteration(learner_of(case, task_chunk=case.num_tasks), episode),
        "loop": loop_iteration(learner_of(case).network, episode, case.settings),
    }
    if maml_type is not None:
        calls["learn2learn"] = learn2learn_iteration(maml_type, learner_of(case).network, episode, case.settings)
    repeated = {name: partial(repeat, call, case.repeats) for name, call in calls.items()}
    seconds = paired_seconds(repeated, num_rounds, clock=time.process_time)
    return {name: [value / case.repeats for value in values] for name, values in seconds.items()}


def repeat(call: Callable[[], None], count: int) -> None:
    """Call something several times, for what is too quick to be timed alone."""
    for _ in range(count):
        call()


def learner_of(case: Case, **changes: Any) -> MAML:
    """A new learner, the same each time."""
    return MAML(replace(case.settings, **changes), case.x_shape, case.num_ways, make_generator(0, "weights"))


def episode_of(case: Case) -> Episode:
    """Tasks of noise."""
    generator = make_generator(0, "data")

    def part(count: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(case.num_tasks, case.num_ways * count, *case.x_shape, generator=generator)
        y = torch.arange(case.num_ways).repeat(count).expand(case.num_tasks, -1)
        if case.num_ways == 1:
            y = torch.randn(case.num_tasks, count, 1, generator=generator)
        return x, y, torch.ones(x.shape[:2], dtype=torch.bool)

    return Episode(*part(case.shots), *part(case.queries), num_ways=case.num_ways)


def our_iteration(learner: MAML, episode: Episode) -> Callable[[], None]:
    """One update of the package's learner."""
    optimizer, generator = torch.optim.Adam(learner.parameters(), lr=1e-3), make_generator(0, "learner")

    def iterate() -> None:
        optimizer.zero_grad()
        learner.loss(episode, generator)[0].backward()
        optimizer.step()

    return iterate


def loop_iteration(network: nn.Module, episode: Episode, settings: MAMLSettings) -> Callable[[], None]:
    """One update, task after task."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def iterate() -> None:
        optimizer.zero_grad()
        loop_backward(network, episode, settings)
        optimizer.step()

    return iterate


def loop_backward(network: nn.Module, episode: Episode, settings: MAMLSettings) -> None:
    """Add the meta-gradient to the gradients of a network, task after task."""
    for task in range(episode.num_tasks):
        clone = clone_module(network)
        for _ in range(settings.num_inner_steps):
            loss = loss_of(clone(episode.support_x[task]), episode.support_y[task])
            gradients = torch.autograd.grad(loss, list(parameters_of(clone)), create_graph=True)
            update_module(clone, iter(gradients), settings.inner_lr)
        (loss_of(clone(episode.query_x[task]), episode.query_y[task]) / episode.num_tasks).backward()


def loss_of(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of classes, mean squared error of numbers."""
    if target.is_floating_point():
        return nn.functional.mse_loss(prediction, target)
    return nn.functional.cross_entropy(prediction, target)


def clone_module(module: nn.Module) -> nn.Module:
    """A copy whose parameters are clones, through which gradients reach the original, as in learn2learn."""
    clone = module.__new__(type(module))
    clone.__dict__ = module.__dict__.copy()
    clone._parameters = {name: None if p is None else p.clone() for name, p in module._parameters.items()}
    clone._modules = {name: None if m is None else clone_module(m) for name, m in module._modules.items()}
    return clone


def parameters_of(module: nn.Module) -> Iterator[Tensor]:
    """The parameters of a clone, in the order of `update_module`."""
    yield from (p for p in module._parameters.values() if p is not None)
    for child in module._modules.values():
        if child is not None:
            yield from parameters_of(child)


def update_module(module: nn.Module, gradients: Iterator[Tensor], lr: float) -> None:
    """Put the parameters after a step in place of those of a clone."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = parameter - lr * next(gradients)
    for child in module._modules.values():
        if child is not None:
            update_module(child, gradients, lr)


def import_learn2learn(checkout: Path | None) -> Any:
    """learn2learn's MAML: installed, or from a checkout whose pure Python files alone are read; None if neither."""
    if checkout is not None:
        for package in ("learn2learn", "learn2learn.algorithms"):
            module = types.ModuleType(package)
            module.__path__ = [str(checkout.joinpath(*package.split(".")))]
            sys.modules[package] = module
    try:
        return importlib.import_module("learn2learn.algorithms.maml").MAML
    except ImportError:
        return None


def learn2learn_iteration(
    maml_type: Any, network: nn.Module, episode: Episode, settings: MAMLSettings
) -> Callable[[], None]:
    """The same with learn2learn."""
    maml = maml_type(network, lr=settings.inner_lr, first_order=False)
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)

    def iterate() -> None:
        optimizer.zero_grad()
        for task in range(episode.num_tasks):
            clone = maml.clone()
            for _ in range(settings.num_inner_steps):
                clone.adapt(loss_of(clone(episode.support_x[task]), episode.support_y[task]))
            (loss_of(clone(episode.query_x[task]), episode.query_y[task]) / episode.num_tasks).backward()
        optimizer.step()

    return iterate


def measure_accuracy(learners: list[str], budget_s: float, data_dir: Path | None, out: Path) -> None:
    """Train learners on Omniglot with their presets at a constant step size; judge them on the way."""
    source = open_data("omniglot", data_dir=data_dir)
    curves, rows = {}, []
    for name in learners:
        curves[name] = accuracy_curve(name, source, budget_s)
        save(out, {"name": "fewshot-accuracy-seconds", "tasks": "5-way 1-shot, split test", "curves": curves})
        rows += [
            (
                name if i == 0 else "",
                f"{p['cpu_s']:.0f}",
                str(p["updates"]),
                f"{100 * p['mean']:.1f} ± {100 * p['ci95']:.1f}",
            )
            for i, p in enumerate(curves[name])
        ]
    show("accuracy on unseen characters, 5-way 1-shot", ("learner", "CPU s", "updates", "accuracy %"), rows)


def accuracy_curve(name: str, source: EpisodeSource, budget_s: float) -> list[dict[str, Any]]:
    """Accuracy of one learner after a sixteenth, an eighth ... of the budget and all of it."""
    settings, training = preset(name, "omniglot")
    config = FewShotConfig(
        name, "omniglot", settings, replace(training, lr_schedule="constant"), options_type("omniglot")()
    )
    loop, spent, curve = FewShotLoop(config, source), 0.0, []
    for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1):
        while spent < share * budget_s:
            begun = time.process_time()
            loop.advance()
            spent += time.process_time() - begun
        found = evaluate_few_shot(loop.learner, source, EpisodeShape(5, 1, 15), name=name, num_tasks=200)
        curve.append({"cpu_s": spent, "updates": loop.update, **asdict(found.accuracy)})
    return curve


if __name__ == "__main__":
    main()
