"""`BatchedEnv` runs an `EnvSpec` on an engine: N worlds, one task each."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.errors import SpecError
from metarl.physics import Engine, make_engine
from metarl.physics.engine import STATE_FIELDS
from metarl.probe import probe_spec
from metarl.seeding import make_generator
from metarl.spec import Drawing, EnvSpec, Metrics, Noise, Outcome, Physics, Signals, Start
from metarl.types import Continuous, Step

__all__ = ["BatchedEnv", "Drawing", "EnvSpec", "Metrics", "Noise", "Outcome", "Physics", "Signals", "Start"]

_HUGE = 3.4e38
"""The largest number that still counts as finite in float32."""


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
