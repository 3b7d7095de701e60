"""Any gymnasium environment whose factory takes task parameters, as a task distribution.

    def make_pendulum(g):
        return gymnasium.make("Pendulum-v1", g=g)

    tasks = TaskDistribution((Parameter("g", "m/s^2", Uniform(6.0, 14.0)),))
    with GymTaskDistribution(make_pendulum, tasks, horizon=200, num_worlds=16) as env:
        env.set_tasks(tasks.split("test", 16))
        rollout = collect(env, policy, num_episodes=2, generator=generator)

One convention: the factory is called with the task parameters by name, `factory(**task)`, floats or
arrays, and returns an environment of that task. A world whose task changes gets a new environment.
A `ProcessSpec` is the same as a specification by name, for `metarl train` and all else (`make_worlds`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import weakref
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.errors import ConfigError, SpecError, UnknownNameError, WorkerError
from metarl.process_worker import Spaces, WorkerStep, serve
from metarl.seeding import make_generator
from metarl.tasks import TaskDistribution
from metarl.types import ActionSpace, Continuous, Discrete, Step
from metarl.worlds import ProcessSpec

if TYPE_CHECKING:
    import gymnasium

_log = logging.getLogger(__name__)
_CLOSE_S = 2.0


class _Worker(NamedTuple):
    process: BaseProcess
    connection: Connection


class GymTaskDistribution:
    """N gymnasium environments in worker processes, with the interface of `BatchedEnv`.

    Observations are flattened to float32 (Discrete ones one-hot); Box actions are scaled from [-1, 1] to
    their bounds. An episode that ends early waits for the others. `info["is_success"]` or
    `info["success"]` is the success criterion, if the first step of an episode tells it. An observation or
    reward that is not finite ends the episode as `failed`. All randomness of an episode comes from the
    seeds that `reset` draws from `generator`, so equal seeds give equal rollouts with any number of workers.

    Args:
        factory: task parameters by name -> a gymnasium environment; a function, or anything cloudpickle
            can send to another process.
        tasks: the task parameters and their distributions.
        horizon: H, at most the environment's own time limit.
        num_worlds: N.
        num_workers: processes, 0 for one per core; never more than worlds.
        start_method: "spawn", "forkserver" or "fork". "spawn" is safe everywhere and, in a script, needs
            `if __name__ == "__main__":`; "fork" is quick, but not safe beside CUDA or threads.
        device: where the tensors go.
        seed: seed of the generator.
        timeout_s: a worker that answers later than this counts as hanging.
        name: what the environment is called in messages and files.

    Raises:
        ConfigError, UnknownNameError: a value out of its domain.
        SpecError: spaces that policies cannot use, or that differ between tasks.
        WorkerError: the factory raises, or a worker dies or hangs; all workers are closed then.
    """

    def __init__(
        self,
        factory: Callable[..., gymnasium.Env],
        tasks: TaskDistribution,
        horizon: int,
        num_worlds: int,
        *,
        num_workers: int = 0,
        start_method: str = "spawn",
        device: str | torch.device = "cpu",
        seed: int = 0,
        timeout_s: float = 60.0,
        name: str = "gymnasium",
    ):
        if horizon < 1 or num_worlds < 1 or num_workers < 0 or timeout_s <= 0:
            got = f"horizon={horizon}, num_worlds={num_worlds}, num_workers={num_workers}, timeout_s={timeout_s}"
            raise ConfigError(f"horizon, num_worlds and timeout_s must be positive, num_workers not negative: {got}.")
        if start_method not in multiprocessing.get_all_start_methods():
            raise UnknownNameError("start method", start_method, multiprocessing.get_all_start_methods())
        self.num_worlds = self.num_tasks = num_worlds
        self.device = torch.device(device)
        self.generator = make_generator(seed, "env")
        self.engine = None
        self._name, self._tasks, self._timeout_s = name, tasks, timeout_s
        self._worlds = np.array_split(np.arange(num_worlds), min(num_workers or _num_cores(), num_worlds))
        self._workers: list[_Worker] = []
        # Closes the workers also when nobody calls `close`.
        self._finalizer = weakref.finalize(self, _close_workers, self._workers, os.getpid())
        context: Any = multiprocessing.get_context(start_method)
        for world_ids in self._worlds:
            self._workers.append(_start(context, factory, len(world_ids), horizon))
        self._parameters = torch.full((num_worlds, tasks.dim), torch.nan)
        self._spaces = self._write_tasks(tasks.split("validation", num_worlds))
        self.spec = ProcessSpec(name, tasks, self._spaces.obs_dim, _action_space(self._spaces), horizon, factory)
        self.has_success = self._probe()

    @classmethod
    def of(
        cls,
        spec: ProcessSpec,
        num_worlds: int,
        *,
        num_workers: int = 0,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> GymTaskDistribution:
        """The worlds of a specification.

        Raises:
            SpecError: the environments have other spaces than the specification says.
        """
        worlds = cls(
            spec.factory,
            spec.tasks,
            spec.horizon,
            num_worlds,
            num_workers=num_workers,
            start_method=spec.start_method,
            device=device,
            seed=seed,
            timeout_s=spec.timeout_s,
            name=spec.name,
        )
        declared, found = ((s.obs_dim, s.action_space) for s in (spec, worlds.spec))
        if declared != found:
            worlds.close()
            raise SpecError(f"{spec.name}: obs_dim and action_space must be {found}, as the environments have them.")
        worlds.spec = spec
        return worlds

    @property
    def task(self) -> Tensor:
        """The task parameters of each world, (N, P) float32."""
        return self._parameters.to(self.device)

    def set_tasks(self, parameters: Tensor) -> None:
        """Give each world its task; makes a new environment where it differs from the one before.

        Args:
            parameters: (B, P) float32; B divides N, and the N / B worlds of a task lie side by side.
        """
        rows = self._tasks.of_worlds(parameters, self.num_worlds, self._name)
        self.num_tasks = len(parameters)
        self._step_count = self.spec.horizon
        spaces = self._write_tasks(rows)
        if spaces != self._spaces:
            self.close()
            raise SpecError(f"{self._name}: tasks must not change the spaces; {self._spaces} became {spaces}.")

    def reset(self) -> Tensor:
        """Start an episode in every world; returns the first observation, (N, O) float32."""
        return self._start(torch.ones(self.num_worlds, dtype=torch.bool))

    def reset_worlds(self, mask: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Start an episode in some of the worlds while the others go on; see `BatchedEnv.reset_worlds`."""
        mask = mask.cpu()
        if parameters is not None:
            rows = self._tasks.of_worlds(parameters.cpu(), self.num_worlds, self._name)
            self._write_tasks(torch.where(mask.unsqueeze(1), rows, self._parameters))
        return self._start(mask)

    def metrics(self) -> Tensor:
        """None, (N, 0): a gymnasium environment has a return and a success only."""
        return torch.zeros(self.num_worlds, 0, device=self.device)

    def signals(self) -> tuple[Tensor, None]:
        """None, (N, 0): what learned losses read of a state is not known of a gymnasium environment."""
        return torch.zeros(self.num_worlds, 0, device=self.device), None

    def expert_action(self) -> Tensor:
        """What the scripted expert does now, (N, A) in [-1, 1]; a SpecError where the environment has none."""
        if not self.spec.expert:
            raise SpecError(f"{self._name} has no scripted expert.")
        answers = self._ask("expert_actions", [(self.spec.expert,)] * len(self._workers))
        return torch.from_numpy(np.concatenate(answers)).to(self.device)

    def pose(self) -> dict[str, Tensor]:
        """What a picture of the worlds needs, (N, ...); models may differ, so it is padded with zeros at the end."""
        if self.spec.body is None:
            return {}
        poses = [pose for part in self._ask("poses", [()] * len(self._workers)) for pose in part]
        return {name: _padded([pose[name] for pose in poses]) for name in ("qpos", "mocap_pos", "mocap_quat")}

    def models(self, world_ids: Iterable[int]) -> list[Any]:
        """The MuJoCo models of some worlds as they are now, mujoco.MjModel in the order of the worlds."""
        asked = [([int(i - ids[0]) for i in sorted(world_ids) if i in ids],) for ids in self._worlds]
        return [model for part in self._ask("models", asked) for model in part]

    def step(self, action: Tensor) -> Step:
        """Advance all worlds by one control step.

        Args:
            action: (N, A) float32, clipped to [-1, 1], or (N,) int64 for discrete actions.

        Raises:
            SpecError: an action of the wrong shape, or a step without a reset before it.
            WorkerError: an environment raised, or a worker died or hangs.
        """
        if self._step_count >= self.spec.horizon:
            raise SpecError(
                f"{self._name}: no episode is running, call reset (an episode has {self.spec.horizon} steps)."
            )
        space = self.spec.action_space
        shape = (self.num_worlds, space.dim) if isinstance(space, Continuous) else (self.num_worlds,)
        if tuple(action.shape) != shape:
            raise SpecError(f"{self._name}: actions must have shape {shape}, got {tuple(action.shape)}.")
        values = action.detach().cpu()
        values = values.clamp(-1.0, 1.0) if isinstance(space, Continuous) else values
        rows = values.numpy()
        answers: list[WorkerStep] = self._ask("step", [(rows[world_ids],) for world_ids in self._worlds])
        self._step_count += 1
        columns = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return Step(*(torch.from_numpy(column).to(self.device) for column in columns))

    def close(self) -> None:
        """Close the environments and end the workers; more than once does no harm."""
        self._finalizer()

    def __enter__(self) -> GymTaskDistribution:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, mask: Tensor) -> Tensor:
        """Start an episode in the worlds of `mask`; returns the observation of all, (N, O) float32."""
        generator = self.generator
        drawn = torch.randint(2**31 - 1, (self.num_worlds,), generator=generator, device=generator.device).tolist()
        seeds = [seed if starts else None for seed, starts in zip(drawn, mask.tolist(), strict=True)]
        answers = self._ask("reset", [([seeds[i] for i in world_ids],) for world_ids in self._worlds])
        self._step_count = 0
        return torch.from_numpy(np.concatenate(answers)).to(self.device)

    def _probe(self) -> bool:
        """Run one step, so that a broken environment is told at construction; True where success is told."""
        state = self.generator.get_state()
        self.reset()
        space = self.spec.action_space
        if isinstance(space, Continuous):
            still = torch.zeros(self.num_worlds, space.dim)
        else:
            still = torch.zeros(self.num_worlds, dtype=torch.int64)
        self.step(still)
        self.generator.set_state(state)
        self._step_count = self.spec.horizon  # reset comes first
        return any(self._ask("tells_success", [()] * len(self._workers)))

    def _write_tasks(self, parameters: Tensor) -> Spaces:
        parameters = parameters.detach().to("cpu", torch.float32, copy=True)  # the caller may change its own
        changed = (parameters != self._parameters).any(1).tolist()
        named = self._tasks.unpack(parameters)
        tasks = [
            {name: _value(values[i]) for name, values in named.items()} if changed[i] else None
            for i in range(self.num_worlds)
        ]
        found = self._ask("set_tasks", [([tasks[i] for i in world_ids],) for world_ids in self._worlds])
        if len(set(found)) != 1:
            self.close()
            raise SpecError(f"{self._name}: tasks must not change the spaces, found {sorted(set(found), key=str)}.")
        self._parameters = parameters
        return found[0]

    def _ask(self, method: str, arguments: list[tuple]) -> list[Any]:
        """Send a request to every worker, then wait for all answers; anything amiss closes all workers."""
        if not self._workers:
            raise WorkerError(f"{self._name}: the workers are closed, make a new GymTaskDistribution.")
        try:
            for i, worker in enumerate(self._workers):
                _send(i, worker, (method, arguments[i]))
            deadline = time.monotonic() + self._timeout_s
            return [_receive(i, worker, deadline, method) for i, worker in enumerate(self._workers)]
        except BaseException:
            # Answers that are still under way would be taken for those of the next request.
            self.close()
            raise


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _action_space(spaces: Spaces) -> ActionSpace:
    if spaces.num_actions is not None:
        return Discrete(spaces.num_actions)
    assert spaces.action_dim is not None  # the worker has looked
    return Continuous(spaces.action_dim)


def _padded(rows: list[np.ndarray]) -> Tensor:
    """Stack arrays that differ in their first dimension, (N, longest, ...) float32, zeros where they are shorter."""
    longest = max(len(row) for row in rows)
    padded = [np.pad(row, [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows]
    return torch.from_numpy(np.stack(padded).astype(np.float32))


def _value(value: Tensor) -> float | np.ndarray:
    return float(value) if value.dim() == 0 else value.numpy().copy()


def _start(context: Any, factory: Callable[..., gymnasium.Env], num_envs: int, horizon: int) -> _Worker:
    from gymnasium.vector.utils import CloudpickleWrapper

    ours, theirs = context.Pipe()
    arguments = (theirs, CloudpickleWrapper(factory), num_envs, horizon)
    process = context.Process(target=serve, args=arguments, daemon=True, name="metarl-worker")
    process.start()
    # The pipe reports a dead worker only when nobody else holds its end.
    theirs.close()
    return _Worker(process, ours)


def _send(worker_id: int, worker: _Worker, request: tuple[str, tuple]) -> None:
    try:
        worker.connection.send(request)
    except OSError as error:
        raise _died(worker_id, worker) from error


def _receive(worker_id: int, worker: _Worker, deadline: float, method: str) -> Any:
    ready = wait([worker.connection, worker.process.sentinel], max(0.0, deadline - time.monotonic()))
    if not ready:
        raise WorkerError(f"worker {worker_id} did not answer {method!r} in time: its environment hangs (timeout_s).")
    try:
        if worker.connection not in ready and not worker.connection.poll():
            raise EOFError
        outcome, answer = worker.connection.recv()
    except (EOFError, OSError) as error:
        raise _died(worker_id, worker) from error
    if outcome == "done":
        return answer
    if outcome == "spec":
        raise SpecError(answer)
    summary, details = answer.split("\n", 1)
    _log.error("worker %d, %s:\n%s", worker_id, method, details)
    raise WorkerError(f"an environment of worker {worker_id} raised in {method!r}: {summary}")


def _died(worker_id: int, worker: _Worker) -> WorkerError:
    worker.process.join(_CLOSE_S)
    code = worker.process.exitcode
    hint = " With start_method='spawn', a script needs `if __name__ == '__main__':`." if code == 1 else ""
    return WorkerError(f"worker {worker_id} died (exit code {code}; negative: the signal that killed it).{hint}")


def _close_workers(workers: list[_Worker], owner_pid: int) -> None:
    """Ask all workers to end, then make them: terminate, kill; leaves no process and no pipe behind."""
    if os.getpid() != owner_pid:
        return  # a forked child holds a copy of the object, but the workers are not its own
    for worker in workers:
        try:
            worker.connection.send(("close", ()))
        except OSError:
            continue  # it is gone already
    deadline = time.monotonic() + _CLOSE_S
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
    for end in ("terminate", "kill"):
        alive = [worker.process for worker in workers if worker.process.is_alive()]
        for process in alive:
            getattr(process, end)()
        for process in alive:
            process.join(_CLOSE_S)
    for worker in workers:
        worker.connection.close()
        worker.process.close()
    workers.clear()
