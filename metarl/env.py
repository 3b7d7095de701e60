"""An environment is a record of pure batched functions; `BatchedEnv` runs it on an engine.

The functions of an `EnvSpec` see named tensors of all worlds and return tensors. They never see the
engine, keep no state of their own, draw no random numbers and never branch on a value (`torch.where`
and masks), so that the same definition runs on a CPU thread pool and inside a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import torch
from torch import Tensor

from metarl.errors import SpecError
from metarl.physics import Engine, make_engine
from metarl.physics.engine import STATE_FIELDS
from metarl.probe import probe_spec
from metarl.seeding import make_generator
from metarl.tasks import TaskDistribution
from metarl.types import ActionSpace, Arrays, Continuous, Discrete, Step

_HUGE = 3.4e38
"""The largest number that still counts as finite in float32."""


class Noise(NamedTuple):
    """Random numbers handed to an environment function.

    Attributes:
        uniform: (N, U) float32 in [0, 1).
        normal: (N, M) float32, standard normal.
    """

    uniform: Tensor
    normal: Tensor


class Start(NamedTuple):
    """What `EnvSpec.reset` returns.

    Attributes:
        state: the environment's own memory, {name: (N, ...)}.
        writes: MuJoCo state fields to write, {"qpos": (N, nq), "mocap_pos": (N, nmocap, 3), ...};
            what is not named keeps the model's default.
    """

    state: dict[str, Tensor]
    writes: dict[str, Tensor]


class Outcome(NamedTuple):
    """What `EnvSpec.step` returns.

    Attributes:
        state: the environment's own memory after the step, same names and shapes as before.
        reward: (N,) float32.
        terminated: (N,) bool, the episode ends here (success does not end an episode).
        success: (N,) bool, the success criterion holds now; None where the task has none.
    """

    state: dict[str, Tensor]
    reward: Tensor
    terminated: Tensor
    success: Tensor | None = None


@dataclass(frozen=True)
class Physics:
    """What an environment needs from a physics engine.

    Attributes:
        model: the compiled model, shared by all worlds.
        num_substeps: physics steps per control step.
        data_fields: fields of mjData that the environment's functions read (`data[name]`).
        model_fields: fields of mjModel that differ between tasks, written by `configure`; `EnvSpec.control` may
            write them too, at every step, if nothing else of the model is derived from them (limits of forces, gains).
        configure: (task, defaults) -> {field: (N, ...)}, the model fields of each world; `defaults`
            maps each of `model_fields` to its compiled value. Called once per trial.
        uses_set_const: recompute derived constants after `configure` (masses, inertias, sizes, positions).
        max_contacts: average contacts per world that the GPU engine makes room for.
        max_constraints: constraint rows per world that the GPU engine makes room for.
        scene: task of one world, {name: tensor without world dimension} -> a model to draw it with: the
            same bodies and joints plus whatever should be seen. None: draw `model`.
        scene_pose: (task, state) -> {"mocap_pos": (N, nmocap, 3), "mocap_quat": (N, nmocap, 4)} of mocap bodies that
            `scene` has and `model` does without, because physics need not know of them. None: there are none.
        camera: the camera of the model that videos use.
    """

    model: mujoco.MjModel
    num_substeps: int
    data_fields: tuple[str, ...]
    model_fields: tuple[str, ...] = ()
    configure: Callable[[Arrays, Arrays], dict[str, Tensor]] | None = None
    uses_set_const: bool = False
    max_contacts: int = 16
    max_constraints: int = 64
    scene: Callable[[Arrays], mujoco.MjModel] | None = None
    scene_pose: Callable[[Arrays, Arrays], dict[str, Tensor]] | None = None
    camera: str = "video"

    @property
    def control_dt_s(self) -> float:
        """Seconds per control step."""
        return float(self.model.opt.timestep) * self.num_substeps


@dataclass(frozen=True)
class Drawing:
    """How to draw an environment that has no physics.

    Attributes:
        model: makes the model to draw.
        pose: (task, state) -> {"qpos": (N, nq), "mocap_pos": (N, nmocap, 3), ...}.
        control_dt_s: seconds that a control step takes in a video.
        camera: the camera of the model that videos use.
    """

    model: Callable[[], mujoco.MjModel]
    pose: Callable[[Arrays, Arrays], dict[str, Tensor]]
    control_dt_s: float
    camera: str = "video"


@dataclass(frozen=True)
class Signals:
    """What a learned loss may read of a state: numbers that mean the same on every robot of a kind.

    A loss that reads them can be used on another robot, because they are dimensionless (lengths, speeds and times
    divided by sizes that are typical of the environment) and do not change when the scene is turned or moved.

    Attributes:
        names: of the S numbers, such as "log_distance"; a loss asks for signals by name.
        compute: (task, data, state) -> (N, S) float32, a new tensor.
        feedback: (task, data, state) -> (N,) float32, the reward that an agent that learns by a loss gets after a
            step, where it is poorer than the environment's reward (sparse, for example): the latter then is what
            meta-training and evaluation go by. None: the reward itself.
    """

    names: tuple[str, ...]
    compute: Callable[[Arrays, Arrays, Arrays], Tensor]
    feedback: Callable[[Arrays, Arrays, Arrays], Tensor] | None = None


@dataclass(frozen=True)
class Metrics:
    """Numbers that tell more of an episode than its return: lap time, collisions.

    Attributes:
        names: of the M numbers, with their units, such as "lap_time_s".
        compute: (task, data, state) -> (N, M) float32, read once after the last step of an episode. Worlds whose
            episode ended early go on until then, so the state has to keep what belongs to the episode. NaN: does not
            apply, such as the lap time without a lap; evaluation leaves it out of means.
    """

    names: tuple[str, ...]
    compute: Callable[[Arrays, Arrays, Arrays], Tensor]


@dataclass(frozen=True)
class EnvSpec:
    """A task distribution and its dynamics, as pure functions over batched tensors.

    `task` maps each parameter, and each table that `derive` adds, to a (N, ...) tensor. `data` maps
    `physics.data_fields` to (N, ...) tensors, and is empty without physics.

    Attributes:
        name: as users type it.
        tasks: parameters with their distributions and splits.
        obs_dim: O.
        action_space: `Continuous` (actions arrive clipped to [-1, 1]) or `Discrete`.
        horizon: H, control steps of an episode.
        reset: (task, noise) -> Start.
        observe: (task, data, state) -> (N, O) float32, a new tensor (`data` changes in place).
        step: (task, data, state, action, noise) -> Outcome; `data` is from after the physics step.
        control: (task, data, state, action) -> MuJoCo state fields to write before the physics step,
            usually {"ctrl": (N, nu)}, and any of `physics.model_fields`; None without physics.
        derive: task -> {name: (N, ...)}, tables computed once per trial and merged into `task`.
        reset_noise, step_noise: how many (uniform, normal) numbers `reset` and `step` want per world.
        physics: None for environments that need no simulation.
        drawing: how to draw an environment without physics; None: it has nothing to show.
        signals: what learned losses read; None: only those that read no state can be used.
        metrics: what evaluation reports beside return and success; None: nothing.
        expert: (task, obs) -> action, a scripted policy that is told the task (with the tables of `derive`): proof that
            the tasks can be solved, and the upper reference of evaluation; None: there is none.
        samples_actions: evaluation and videos sample the policy's actions, because acting at random is part of
            solving the task; elsewhere they take the likeliest.
        description: one line for `metarl list`.
    """

    name: str
    tasks: TaskDistribution
    obs_dim: int
    action_space: ActionSpace
    horizon: int
    reset: Callable[[Arrays, Noise], Start]
    observe: Callable[[Arrays, Arrays, Arrays], Tensor]
    step: Callable[[Arrays, Arrays, Arrays, Tensor, Noise], Outcome]
    control: Callable[[Arrays, Arrays, Arrays, Tensor], dict[str, Tensor]] | None = None
    derive: Callable[[Arrays], dict[str, Tensor]] | None = None
    reset_noise: tuple[int, int] = (0, 0)
    step_noise: tuple[int, int] = (0, 0)
    physics: Physics | None = None
    drawing: Drawing | None = None
    signals: Signals | None = None
    metrics: Metrics | None = None
    expert: Callable[[Arrays, Tensor], Tensor] | None = None
    samples_actions: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.action_space, (Continuous, Discrete)) or self.action_space.input_dim < 1:
            raise SpecError(f"{self.name}: action_space must be Continuous or Discrete, got {self.action_space!r}.")
        if self.horizon < 1 or self.obs_dim < 1:
            raise SpecError(f"{self.name}: horizon and obs_dim must be positive, got {self.horizon}, {self.obs_dim}.")
        if (self.physics is None) != (self.control is None):
            raise SpecError(f"{self.name}: `physics` and `control` go together, one of them is missing.")
        if self.physics is not None and bool(self.physics.model_fields) != (self.physics.configure is not None):
            raise SpecError(f"{self.name}: `model_fields` and `configure` go together, one of them is missing.")


class BatchedEnv:
    """N worlds of an environment, one task each, all episodes in step.

    Usage: `set_tasks` once per trial, `reset` at the start of each of its episodes, then H times `step`.
    A world whose episode ends early stays in place: its rewards are zero and `valid` is False until
    all worlds are reset together.

    Args:
        spec: the environment.
        num_worlds: N.
        device: "cpu" (thread pool) or "cuda" (mujoco_warp).
        engine: "auto", "batch" (mujoco.batch) or "warp" (mujoco_warp; also runs on the CPU, slowly).
        num_threads: threads of the CPU engine, 0 for all cores.
        seed: seed of the noise of resets and steps.

    Raises:
        SpecError: a function of the spec returns a wrong shape, dtype or NaN; the message names it.
        DeviceError, EngineError: the machine or the model cannot run it.
    """

    def __init__(
        self,
        spec: EnvSpec,
        num_worlds: int,
        *,
        device: str | torch.device = "cpu",
        engine: str = "auto",
        num_threads: int = 0,
        seed: int = 0,
    ):
        if num_worlds < 1:
            raise SpecError(f"num_worlds must be positive, got {num_worlds}.")
        self.spec = spec
        self.num_worlds = num_worlds
        self.device = torch.device(device)
        self.generator = make_generator(seed, "env", self.device)
        self.engine: Engine | None = None
        self._data: dict[str, Tensor] = {}
        if spec.physics is not None:
            self.engine = make_engine(spec.physics, num_worlds, self.device, engine, num_threads)
            self._data = {name: self.engine.data(name) for name in spec.physics.data_fields}
            self._model_defaults = {n: self.engine.default_model_field(n) for n in spec.physics.model_fields}
        self._step_count = 0
        self._state: dict[str, Tensor] = {}
        self._no_noise = torch.zeros(num_worlds, 0, device=self.device)
        self._false = torch.zeros(num_worlds, dtype=torch.bool, device=self.device)
        self._probe()

    @property
    def task(self) -> Tensor:
        """The task parameters of each world, (N, P) float32."""
        return self._parameters

    def set_tasks(self, parameters: Tensor) -> None:
        """Give each world its task; takes effect with the next `reset`.

        Args:
            parameters: (B, P) float32; B divides N, and the N / B worlds of a task lie side by side.
        """
        rows = self.spec.tasks.of_worlds(parameters, self.num_worlds, self.spec.name)
        self.num_tasks = len(parameters)
        self._configure(rows.to(self.device, torch.float32))
        self._step_count = self.spec.horizon  # reset comes first
        self._state = {}

    def reset(self) -> Tensor:
        """Start an episode in every world; returns the first observation, (N, O) float32."""
        noise = self._draw(self.spec.reset_noise)
        start = self.spec.reset(self._task, noise)
        self._state = start.state
        if self.engine is not None:
            self.engine.reset()
            for name, value in start.writes.items():
                self.engine.write(name, value)
            self.engine.forward()
        self._running = torch.ones(self.num_worlds, dtype=torch.bool, device=self.device)
        self._age = torch.zeros(self.num_worlds, dtype=torch.int64, device=self.device)
        self._step_count = 0
        self._obs = self.spec.observe(self._task, self._data, self._state)
        return self._obs

    def reset_worlds(self, mask: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Start an episode in some of the worlds while the others go on, for adapters that reset one by one.

        The time limit is counted per world. Call `reset` once before.

        Args:
            mask: (N,) bool, the worlds to start.
            parameters: (N, P) float32, new tasks for the worlds of `mask`; None keeps their tasks.

        Returns:
            The observation of all worlds, (N, O) float32.
        """
        if parameters is not None:
            parameters = parameters.to(self.device, torch.float32)
            self._configure(torch.where(mask.unsqueeze(1), parameters, self._parameters))
        start = self.spec.reset(self._task, self._draw(self.spec.reset_noise))
        self._state = {
            name: torch.where(mask.view(-1, *[1] * (value.dim() - 1)), value, self._state[name])
            for name, value in start.state.items()
        }
        if self.engine is not None:
            self.engine.reset(mask)
            for name, value in start.writes.items():
                self.engine.write(name, value, mask)
            self.engine.forward()
        self._running = self._running | mask
        self._age = torch.where(mask, 0, self._age)
        self._step_count = 0
        obs = self.spec.observe(self._task, self._data, self._state)
        if self.engine is not None:
            obs = torch.where(self.engine.failed.unsqueeze(-1), self._obs, obs)
        self._obs = obs
        return obs

    def step(self, action: Tensor) -> Step:
        """Advance all worlds by one control step.

        Args:
            action: (N, A) float32, clipped to [-1, 1], or (N,) int64 for discrete actions.

        Raises:
            SpecError: an action of the wrong shape, or a step without a reset before it.
        """
        if self._step_count >= self.spec.horizon:
            raise SpecError(
                f"{self.spec.name}: no episode is running, call reset (an episode has {self.spec.horizon} steps)."
            )
        action = self._checked(action)
        valid = self._running
        if self.engine is not None and self.spec.control is not None:
            for name, value in self.spec.control(self._task, self._data, self._state, action).items():
                if name in STATE_FIELDS:
                    self.engine.write(name, value)
                else:
                    self.engine.set_model_field(name, value, every_step=True)
            self.engine.step()
        noise = self._draw(self.spec.step_noise)
        outcome = self.spec.step(self._task, self._data, self._state, action, noise)
        self._state = outcome.state
        obs = self.spec.observe(self._task, self._data, self._state)
        total = obs.sum(-1) + outcome.reward
        sound = total == total.clamp(-_HUGE, _HUGE)  # False for NaN and infinities
        if self.engine is not None:
            sound = sound > self.engine.failed
        # A world that diverged keeps its last sound observation and earns nothing more.
        obs = torch.where(sound.unsqueeze(-1), obs, self._obs)
        earns = valid & sound
        reward = torch.where(earns, outcome.reward, 0.0)
        success = self._false if outcome.success is None else outcome.success & earns
        terminated = torch.where(earns, outcome.terminated, valid)  # a failure is an end
        # For masks a > b is "a and not b", in one operation.
        failed, runs_on = valid > earns, valid > terminated
        self._obs = obs
        self._step_count += 1
        self._age = self._age + 1
        self._running = runs_on & (self._age < self.spec.horizon)
        return Step(obs, reward, terminated, runs_on > self._running, success, failed, valid)

    def signals(self) -> tuple[Tensor, Tensor | None]:
        """What learned losses read of the present state: signals (N, S), zero where they are not finite, and feedback.

        The feedback, (N,), is None where it is the reward of the step; it does not know of ended episodes.
        """
        signals = self.spec.signals
        if signals is None:
            return self._no_noise, None
        values = signals.compute(self._task, self._data, self._state)
        feedback = None
        if signals.feedback is not None:
            feedback = signals.feedback(self._task, self._data, self._state).nan_to_num(0.0, 0.0, 0.0)
        return values.nan_to_num(0.0, 0.0, 0.0), feedback

    def metrics(self) -> Tensor:
        """What `EnvSpec.metrics` says of the episode so far, (N, M) float32; M = 0 where it is None."""
        if self.spec.metrics is None:
            return self._no_noise
        return self.spec.metrics.compute(self._task, self._data, self._state)

    def expert_action(self) -> Tensor:
        """What the scripted expert does now, (N, A); a SpecError where the environment has none."""
        if self.spec.expert is None:
            raise SpecError(f"{self.spec.name} has no scripted expert.")
        return self.spec.expert(self._task, self._obs)

    def pose(self) -> dict[str, Tensor]:
        """What a picture of the worlds needs: "qpos", and "mocap_pos", "mocap_quat" where there are any, (N, ...)."""
        if self.engine is None:
            return {} if self.spec.drawing is None else self.spec.drawing.pose(self._task, self._state)
        names = ("qpos", "mocap_pos", "mocap_quat") if self.engine.model.nmocap else ("qpos",)
        pose = {name: self.engine.data(name) for name in names}
        if self.spec.physics is not None and self.spec.physics.scene_pose is not None:
            pose |= self.spec.physics.scene_pose(self._task, self._state)
        return pose

    def _configure(self, parameters: Tensor) -> None:
        self._parameters = parameters
        self._task = self.spec.tasks.unpack(self._parameters)
        if self.spec.derive is not None:
            self._task |= self.spec.derive(self._task)
        physics = self.spec.physics
        if self.engine is not None and physics is not None and physics.configure is not None:
            for name, value in physics.configure(self._task, self._model_defaults).items():
                self.engine.set_model_field(name, value)
            if physics.uses_set_const:
                self.engine.set_const()

    def _draw(self, counts: tuple[int, int]) -> Noise:
        n, generator, device = self.num_worlds, self.generator, self.device
        uniform, normal = counts
        return Noise(
            torch.rand(n, uniform, generator=generator, device=device) if uniform else self._no_noise,
            torch.randn(n, normal, generator=generator, device=device) if normal else self._no_noise,
        )

    def _checked(self, action: Tensor) -> Tensor:
        space = self.spec.action_space
        shape = (self.num_worlds, space.dim) if isinstance(space, Continuous) else (self.num_worlds,)
        if tuple(action.shape) != shape:
            raise SpecError(f"{self.spec.name}: actions must have shape {shape}, got {tuple(action.shape)}.")
        return action.clamp(-1.0, 1.0) if isinstance(space, Continuous) else action

    def _probe(self) -> None:
        """Run one step on sampled tasks, so that a wrong spec fails here and names its field."""
        generator_state = self.generator.get_state()
        tasks = self.spec.tasks.split("validation", self.num_worlds)
        self.has_success = probe_spec(self.spec, tasks.to(self.device), self.engine, self._data, self._draw)
        self.set_tasks(tasks)
        self.reset()
        self.generator.set_state(generator_state)
