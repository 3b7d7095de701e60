"""An environment as a record of pure batched functions.

The functions of an `EnvSpec` see named tensors of all worlds and return tensors. They never see the
engine, keep no state of their own, draw no random numbers and never branch on a value (`torch.where`
and masks), so that the same definition runs on a CPU thread pool and inside a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
from torch import Tensor

from metarl.errors import SpecError
from metarl.tasks import TaskDistribution
from metarl.types import ActionSpace, Arrays, Continuous, Discrete


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
