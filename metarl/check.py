"""Check a task distribution, as stable-baselines3's `check_env` checks an environment."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import SpecError
from metarl.seeding import make_generator
from metarl.task_worlds import resolve_spec
from metarl.tasks import Choice, Parameter, Simplex, TaskDistribution, Uniform, untrained
from metarl.types import Discrete, Step

_MAX_STEPS = 200  # of an episode that is run to be checked
_MIN_STEPS = 50  # on a task before one may say that it does not depend on a parameter


def check_task_distribution(
    env: str | EnvSpec | Callable[[], EnvSpec], *, num_tasks: int = 16, seed: int = 0, **options: Any
) -> None:
    """Check that an environment is a sound distribution of tasks; returns if it is.

    Runs a few hundred control steps with random actions on the CPU and checks that
    names, shapes, dtypes and values are right (at construction); the splits are the same for everybody,
    lie in their declared ranges and are disjoint; a task does the same whenever it is run; a reset
    forgets the episode before; one world's task does not change another world; every parameter changes
    something; and no world diverges or gives a NaN, on any split.

    Args:
        env: an environment's name, its specification, or a function that makes one.
        num_tasks: tasks of each split that are run.
        seed: seed of tasks, noise and actions.
        **options: options of the environment, where it is given by name.

    Raises:
        SpecError: the first thing that is wrong, what was expected, and what to do.
        UnknownNameError: no such environment or option.
    """
    if num_tasks < 2:
        raise SpecError(f"num_tasks must be at least 2 to compare tasks, got {num_tasks}.")
    spec = env() if callable(env) else resolve_spec(env, options)
    if not isinstance(spec, EnvSpec):
        raise SpecError(f"expected an EnvSpec, got {type(spec).__name__}: pass a name, a spec, or what makes a spec.")
    check_splits(spec.tasks, spec.name, num_tasks=max(num_tasks, 64), seed=seed)
    worlds = BatchedEnv(spec, num_tasks, seed=seed)
    tasks = spec.tasks.split("validation", num_tasks, seed)
    actions = _random_actions(worlds, make_generator(seed, "check/actions"))
    _check_determinism(worlds, BatchedEnv(spec, num_tasks, seed=seed), tasks, actions)
    _check_reset_forgets(worlds, tasks, actions)
    _check_worlds_are_apart(worlds, tasks, actions, seed)
    for parameter in spec.tasks.parameters:
        _check_parameter_matters(worlds, parameter, tasks, actions, seed)
    for split in spec.tasks.splits():
        _check_stability(worlds, split, spec.tasks.split(split, num_tasks, seed), actions)


def check_splits(distribution: TaskDistribution, name: str, *, num_tasks: int = 64, seed: int = 0) -> None:
    """Check the splits of task parameters alone: deterministic, inside their ranges, disjoint.

    Where all parameters are `Choice`s the few tasks that there are may be in several splits.

    Raises:
        SpecError: the first thing that is wrong.
    """
    drawn = {split: distribution.split(split, num_tasks, seed) for split in distribution.splits()}
    for split, tasks in drawn.items():
        if tuple(tasks.shape) != (num_tasks, distribution.dim) or tasks.dtype != torch.float32:
            expected = f"({num_tasks}, {distribution.dim}) float32"
            raise SpecError(f"{name}: split {split!r} must be {expected}, got {tuple(tasks.shape)} {tasks.dtype}.")
        if not torch.equal(tasks[: num_tasks // 2], distribution.split(split, num_tasks // 2, seed)):
            raise SpecError(f"{name}: split {split!r} differs between two draws; draw from the given generator only.")
        _check_ranges(distribution, name, split, tasks)
    if all(isinstance(p.distribution, Choice) for p in distribution.parameters):
        return
    for first, second in combinations(drawn, 2):
        common = (drawn[first].unsqueeze(1) == drawn[second].unsqueeze(0)).all(2).any(1)  # (num_tasks,)
        if bool(common.any()):
            task = drawn[first][common][0].tolist()
            raise SpecError(f"{name}: splits {first!r} and {second!r} share tasks, such as {task}; make them disjoint.")


class _Episodes(NamedTuple):
    """What a check compares: (T, N, O) observations, each episode's first one included, and (T', N) rewards."""

    obs: Tensor
    reward: Tensor


def _check_ranges(distribution: TaskDistribution, name: str, split: str, tasks: Tensor) -> None:
    named = distribution.unpack(tasks)
    held_out = distribution.held_out(split)
    num_outside = torch.zeros(tasks.shape[0], dtype=torch.int64)  # parameters outside their train range
    for parameter in distribution.parameters:
        value, prior = named[parameter.name], parameter.distribution
        label = f"{name}: parameter {parameter.name!r} of split {split!r}"
        more = untrained(prior, split) if parameter.name in held_out else ()
        if isinstance(prior, Choice):
            choices = (*prior.values, *more)
            if not bool(torch.isin(value, torch.tensor(choices)).all()):
                raise SpecError(f"{label} must be one of {choices}, got {value.unique().tolist()[:8]}.")
            num_outside += _in_any(~torch.isin(value, torch.tensor(prior.values)))
        elif isinstance(prior, Simplex):
            if bool((value < 0).any()) or not torch.allclose(value.sum(-1), torch.ones(()), atol=1e-4):
                raise SpecError(f"{label} must be non-negative and sum to 1.")
        elif isinstance(prior, Uniform):
            inside = prior.contains(value, prior.train_intervals())
            allowed = (*prior.train_intervals(), *more)
            wrong = ~prior.contains(value, allowed)
            if bool(wrong.any()):
                raise SpecError(f"{label} must lie in {allowed}, got {float(value[wrong][0])}.")
            num_outside += _in_any(~inside)
    if held_out and split not in distribution.fixed and not bool((num_outside == 1).all()):
        raise SpecError(
            f"{name}: split {split!r} must hold out one parameter of each task, got {num_outside.tolist()}."
        )


def _in_any(mask: Tensor) -> Tensor:
    """Whether any number of a parameter is marked: (B, *shape) -> (B,)."""
    return mask.reshape(len(mask), -1).any(1)


def _check_determinism(worlds: BatchedEnv, twin: BatchedEnv, tasks: Tensor, actions: Tensor) -> None:
    first, second = _run(worlds, tasks, actions), _run(twin, tasks, actions)
    if not _equal(first, second):
        raise SpecError(
            f"{worlds.spec.name}: the same tasks, seed and actions gave different episodes in two environments; "
            "take random numbers from `noise` only, and keep no state outside `state`."
        )


def _check_reset_forgets(worlds: BatchedEnv, tasks: Tensor, actions: Tensor) -> None:
    first = _run(worlds, tasks, actions)
    _run(worlds, tasks, actions.flip(0))
    if not _equal(first, _run(worlds, tasks, actions)):
        raise SpecError(
            f"{worlds.spec.name}: an episode depends on the episode before it; let `reset` return all of `state` anew."
        )


def _check_worlds_are_apart(worlds: BatchedEnv, tasks: Tensor, actions: Tensor, seed: int) -> None:
    half = tasks.shape[0] // 2
    others = worlds.spec.tasks.split("test", tasks.shape[0], seed)
    mixed = torch.cat([tasks[:half], others[half:]])
    first, second = _run(worlds, tasks, actions), _run(worlds, mixed, actions)
    if not _equal(_Episodes(*(x[:, :half] for x in first)), _Episodes(*(x[:, :half] for x in second))):
        raise SpecError(
            f"{worlds.spec.name}: a world changed when only the tasks of other worlds did; "
            "compute each row from the same row of the inputs, never over the world dimension."
        )


def _check_parameter_matters(
    worlds: BatchedEnv, parameter: Parameter, tasks: Tensor, actions: Tensor, seed: int
) -> None:
    columns = [p.size for p in worlds.spec.tasks.parameters]
    position = [p.name for p in worlds.spec.tasks.parameters].index(parameter.name)
    start = sum(columns[:position])
    changed = tasks.clone()
    other = worlds.spec.tasks.split("test", tasks.shape[0], seed)
    if torch.equal(other[:, start : start + parameter.size], tasks[:, start : start + parameter.size]):
        other = other.roll(1, 0)
    prior = parameter.distribution
    if isinstance(prior, Choice) and len(prior.values) == 1 and prior.held_out:
        other[:, start : start + parameter.size] = prior.held_out[0]  # training knows one value only
    changed[:, start : start + parameter.size] = other[:, start : start + parameter.size]

    def matters(sequence: Tensor) -> bool:
        return not _equal(_run(worlds, tasks, sequence), _run(worlds, changed, sequence))

    if matters(actions) or (worlds.spec.expert is not None and matters(_expert_actions(worlds, tasks, actions))):
        return
    raise SpecError(
        f"{worlds.spec.name}: parameter {parameter.name!r} changes neither observations nor rewards with random "
        "actions, nor with those of the scripted expert where there is one; read it in the functions of the spec "
        "(and call set_const after masses), or remove it."
    )


def _expert_actions(worlds: BatchedEnv, tasks: Tensor, actions: Tensor) -> Tensor:
    """What the scripted expert does on the tasks, of the shape of `actions`: a sparse reward is not found at random."""
    worlds.generator.manual_seed(0)
    worlds.set_tasks(tasks)
    done = []
    for episode in actions:
        worlds.reset()
        for _ in episode:
            done.append(worlds.expert_action())
            worlds.step(done[-1])
    return torch.stack(done).view_as(actions)


def _check_stability(worlds: BatchedEnv, split: str, tasks: Tensor, actions: Tensor) -> None:
    steps: list[Step] = []
    first_obs = _run(worlds, tasks, actions, steps).obs[0]
    failed = torch.stack([step.failed for step in steps]).any(0) | ~torch.isfinite(first_obs).all(1)
    if bool(failed.any()):
        raise SpecError(
            f"{worlds.spec.name}: {int(failed.sum())} of {len(failed)} worlds diverge on split {split!r} with random "
            f"actions (the simulation fails, or an observation or reward is NaN), such as task "
            f"{tasks[failed][0].tolist()}; guard divisions and roots, take a smaller time step or narrower ranges."
        )


def _run(worlds: BatchedEnv, tasks: Tensor, actions: Tensor, steps: list[Step] | None = None) -> _Episodes:
    """Run the actions, (episodes, H, N, A), with the same noise in every call."""
    worlds.generator.manual_seed(0)
    worlds.set_tasks(tasks)
    observations, rewards = [], []
    for episode in actions:
        observations.append(worlds.reset())
        for action in episode:
            step = worlds.step(action)
            observations.append(step.obs)
            rewards.append(step.reward)
            if steps is not None:
                steps.append(step)
    return _Episodes(torch.stack(observations), torch.stack(rewards))


def _random_actions(worlds: BatchedEnv, generator: torch.Generator) -> Tensor:
    horizon = min(worlds.spec.horizon, _MAX_STEPS)
    num_episodes = max(2, -(-_MIN_STEPS // horizon))
    space = worlds.spec.action_space
    if isinstance(space, Discrete):
        return torch.randint(space.num_actions, (num_episodes, horizon, worlds.num_worlds), generator=generator)
    return 2.0 * torch.rand(num_episodes, horizon, worlds.num_worlds, space.dim, generator=generator) - 1.0


def _equal(first: _Episodes, second: _Episodes) -> bool:
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True))
