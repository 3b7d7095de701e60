"""Record an agent as it adapts: some tasks side by side, episode after episode of one trial."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.env import BatchedEnv, Drawing, Physics
from metarl.errors import ConfigError, MetarlError
from metarl.process_env import GymTaskDistribution
from metarl.render import Renderer
from metarl.rollout import Adapts
from metarl.tasks import TaskDistribution
from metarl.types import Arrays, Continuous, Rollout
from metarl.video import Mosaic, PanelState, VideoWriter, return_decimals, write_png
from metarl.worlds import ProcessBody, ProcessSpec, Spec, Worlds, make_worlds

_MAX_FPS = 30
_HOLD_S = 0.7  # how long the last frame of an episode stays


@dataclass(frozen=True)
class Clip:
    """One world's trial, all that is needed to draw it.

    Attributes:
        heading: short texts over the picture, such as "mass 3.2 kg".
        model: what to draw.
        camera: name of one of its cameras.
        control_dt_s: seconds per control step.
        qpos: (K, H+1, nq), before the first step and after each.
        mocap_pos: (K, H+1, nmocap, 3).
        mocap_quat: (K, H+1, nmocap, 4).
        reward: (K, H).
        success: (K, H) bool.
        num_steps: (K,) int, steps until the episode ended, H where it ran its time.
        failed: (K,) bool, the simulation diverged.
    """

    heading: tuple[str, ...]
    model: mujoco.MjModel
    camera: str
    control_dt_s: float
    qpos: np.ndarray
    mocap_pos: np.ndarray
    mocap_quat: np.ndarray
    reward: np.ndarray
    success: np.ndarray
    num_steps: np.ndarray
    failed: np.ndarray

    @property
    def num_episodes(self) -> int:
        """K."""
        return self.reward.shape[0]

    def last_sound_step(self, episode: int) -> int:
        """The last instant of the episode that can be drawn."""
        return int(self.num_steps[episode]) - int(self.failed[episode])


@dataclass(frozen=True)
class Recording:
    """What was written.

    Attributes:
        path: the file.
        num_frames: frames in it.
        fps: frames per second.
        width, height: pixels.
        backend: the renderer that drew it.
    """

    path: Path
    num_frames: int
    fps: Fraction
    width: int
    height: int
    backend: str


def record(
    agent: Adapts,
    spec: Spec,
    tasks: Tensor,
    num_episodes: int,
    path: str | Path,
    *,
    episodes_per_task: int = 1,
    stages: Sequence[int] = (),
    generator: torch.Generator | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    title: str = "",
    speed: float = 1.0,
    frame_width: int = 320,
    frame_height: int = 240,
    render_backend: str = "auto",
    on_frame: Callable[[int, int], None] | None = None,
) -> Recording:
    """Write a video of one trial on each of some tasks, side by side.

    Args:
        agent: a learner, which adapts from episode to episode.
        spec: an environment with a body.
        tasks: (N, P) task parameters, one panel each.
        num_episodes: K.
        path: the mp4 to write.
        episodes_per_task: E, worlds of each task; the first of them is shown.
        stages: inner steps, from 0 to K - 1, after which a gradient learner is shown, one column each; none:
            the episodes follow each other in time.
        generator: for sampling actions; None acts deterministically.
        seed: of the noise of resets and steps.
        device: where the agent and the physics run.
        title: a line over the panels; empty: the environment's name.
        speed: 1 plays in real time, 2 twice as fast.
        frame_width, frame_height: pixels of one panel's picture.
        render_backend: see `metarl.render`.
        on_frame: called with frames written and frames in all.

    Returns:
        What was written.

    Raises:
        MetarlError: the environment has no body; the message lists those that have one.
        RenderError: the machine cannot draw, or the file cannot be written.
    """
    require_body(spec)
    env = make_worlds(spec, len(tasks) * episodes_per_task, device=device, seed=seed)
    env.set_tasks(tasks.to(env.device))
    clips, _ = watch(agent, env, num_episodes, generator)
    if stages:
        clips = [_after_inner_steps(clip, stage) for clip in clips for stage in stages]
    return write_clips(
        clips,
        path,
        title=title or spec.name,
        speed=speed,
        frame_width=frame_width,
        frame_height=frame_height,
        columns=len(stages) or None,
        render_backend=render_backend,
        on_frame=on_frame,
    )


def watch(
    agent: Adapts, env: Worlds, num_episodes: int, generator: torch.Generator | None
) -> tuple[list[Clip], Rollout]:
    """Run one trial on the tasks that the environment holds and keep what is needed to draw it.

    Returns:
        One clip per task, of its first world, and the rollout that they show.
    """
    shown = slice(None, None, env.num_worlds // env.num_tasks)
    body = require_body(env.spec)
    env.reset()
    seen: dict[str, list[np.ndarray]] = {name: [] for name in env.pose()}

    def look(worlds: Worlds) -> None:
        for name, value in worlds.pose().items():
            seen[name].append(value[shown].cpu().numpy().copy())

    rollout = agent.trial(env, num_episodes, generator, look)
    num_tasks, frames = env.num_tasks, len(seen["qpos"]) // num_episodes  # H + 1
    motion = {  # (K, H+1, B, ...)
        name: np.stack(values).reshape(num_episodes, frames, *values[0].shape) for name, values in seen.items()
    }
    empty = np.zeros((num_episodes, frames, num_tasks, 0))
    by_episode = {
        name: getattr(rollout, name)[:, shown].unflatten(0, (num_episodes, -1)).cpu().numpy()  # (K, H, B)
        for name in ("reward", "success", "valid", "failed")
    }
    tasks = env.task[shown].cpu()
    names = env.spec.describe if isinstance(env.spec, ProcessSpec) else None
    headings = [(names(task),) for task in tasks] if names else describe_tasks(env.spec.tasks, tasks)
    models = _drawing_models(env)
    clips = [
        Clip(
            heading=headings[world],
            model=models[world],
            camera=body.camera,
            control_dt_s=body.control_dt_s,
            qpos=motion["qpos"][:, :, world, : models[world].nq],  # models of processes may differ in size
            mocap_pos=motion.get("mocap_pos", empty[..., None])[:, :, world, : models[world].nmocap],
            mocap_quat=motion.get("mocap_quat", empty[..., None])[:, :, world, : models[world].nmocap],
            reward=by_episode["reward"][:, :, world],
            success=by_episode["success"][:, :, world],
            num_steps=by_episode["valid"][:, :, world].sum(1),
            failed=by_episode["failed"][:, :, world].any(1),
        )
        for world in range(num_tasks)
    ]
    return clips, rollout


def _after_inner_steps(clip: Clip, num_steps: int) -> Clip:
    """The episode that a gradient learner plays after some inner steps, as a clip of its own."""
    name = f"after {num_steps} inner step{'s' * (num_steps > 1)}" if num_steps else "before adaptation"
    episodes = ("qpos", "mocap_pos", "mocap_quat", "reward", "success", "num_steps", "failed")
    part = {field: getattr(clip, field)[num_steps : num_steps + 1] for field in episodes}
    return replace(clip, heading=(name, *clip.heading), **part)


def write_clips(
    clips: Sequence[Clip],
    path: str | Path,
    *,
    title: str = "",
    speed: float = 1.0,
    frame_width: int = 320,
    frame_height: int = 240,
    columns: int | None = None,
    render_backend: str = "auto",
    on_frame: Callable[[int, int], None] | None = None,
) -> Recording:
    """Write clips side by side, in step; they must have as many episodes and the same `control_dt_s`.

    Args:
        clips: one panel each.
        columns: panels per row; None: up to three in a row, four as 2 x 2.
        path, title, speed, frame_width, frame_height, render_backend, on_frame: as in `record`.

    Raises:
        ConfigError: no clips, clips that cannot be shown in step, or a speed that is not positive.
        RenderError: the machine cannot draw, or the file cannot be written.
    """
    if len({(clip.num_episodes, clip.control_dt_s) for clip in clips}) != 1:
        raise ConfigError(f"clips need the same number of episodes and control_dt_s, got {len(clips)} that differ.")
    stride, fps = frame_rate(clips[0].control_dt_s, speed)
    instants = list(_instants(clips, stride, num_held=round(_HOLD_S * fps)))
    totals = [float(r) for clip in clips for r in clip.reward.sum(1)]
    mosaic = Mosaic(
        [clip.heading for clip in clips],
        frame_width,
        frame_height,
        num_episodes=clips[0].num_episodes,
        return_range=(min(totals), max(totals)),
        title=title,
        columns=columns,
    )
    decimals = return_decimals((min(totals), max(totals)))
    with contextlib.ExitStack() as stack:
        films = [stack.enter_context(_Film(clip, render_backend, frame_width, frame_height)) for clip in clips]
        writer = stack.enter_context(VideoWriter(path, fps))
        for done, (episode, step) in enumerate(instants, start=1):
            panels = [_panel(film, episode, step, decimals) for film in films]
            writer.add(mosaic.draw(panels))
            if on_frame is not None:
                on_frame(done, len(instants))
    return Recording(writer.path, writer.num_frames, fps, mosaic.width, mosaic.height, films[0].backend)


def snapshot(
    specs: Sequence[Spec],
    path: str | Path,
    *,
    num_steps: int = 10,
    split: str = "test",
    seed: int = 0,
    columns: int | None = None,
    frame_width: int = 320,
    frame_height: int = 240,
    render_backend: str = "auto",
) -> Path:
    """Write a PNG with one frame of each environment, after some steps, the expert's or random ones.

    Args:
        specs: environments with a body, one panel each.
        path: the PNG to write.
        num_steps: steps before the picture, fewer where the episode ends before.
        split: where the task comes from.
        seed: of the task, the reset and random actions.
        columns, frame_width, frame_height, render_backend: as in `write_clips`.
    """
    panels = []
    for spec in specs:
        body = require_body(spec)
        env = make_worlds(spec, 1, seed=seed)
        env.set_tasks(spec.tasks.split(split, 1, seed))
        env.reset()
        for _ in range(min(num_steps, spec.horizon)):
            step = env.step(env.expert_action() if spec.expert is not None else _random_action(spec, env.generator))
            if bool(step.terminated):  # a robot that lies on the ground is no picture of what it does
                break
        pose = {name: value[0].numpy() for name, value in env.pose().items()}
        model = _drawing_models(env)[0]
        with Renderer(model, frame_width, frame_height, backend=render_backend, camera=body.camera) as renderer:
            panels.append(PanelState(renderer.draw(**pose), (), ()))
    mosaic = Mosaic([[spec.name] for spec in specs], frame_width, frame_height, columns=columns)
    return write_png(path, mosaic.draw(panels))


def require_body(spec: Spec) -> Physics | Drawing | ProcessBody:
    """What says how an environment is drawn.

    Raises:
        MetarlError: it has none; the message lists the environments that can be recorded, less Meta-World's ML1.
    """
    if spec.physics is not None:
        return spec.physics
    if spec.drawing is not None:
        return spec.drawing
    if isinstance(spec, ProcessSpec) and spec.body is not None:
        return spec.body
    import envs

    bodied = []
    for name in envs.names():
        if name.startswith("metaworld-ml1-"):
            continue  # fifty names of one kind
        # Somebody else's broken environment must not hide this message.
        with contextlib.suppress(Exception):
            other = envs.make_spec(name)
            if other.physics or other.drawing or (isinstance(other, ProcessSpec) and other.body):
                bodied.append(name)
    raise MetarlError(
        f"{spec.name} has no body, so there is nothing to record; `metarl evaluate` shows how it adapts. "
        f"Environments with a body: {', '.join(bodied) or 'none'}."
    )


def describe_tasks(tasks: TaskDistribution, values: Tensor) -> list[tuple[str, ...]]:
    """Name, value and unit of each task parameter of up to three numbers, for each row of (N, P)."""
    named = tasks.unpack(values)
    return [
        tuple(
            f"{p.name.replace('_', ' ')} {_numbers(named[p.name][row])}{'' if p.unit == '1' else ' ' + p.unit}"
            for p in tasks.parameters
            if p.size <= 3
        )
        for row in range(len(values))
    ]


def frame_rate(control_dt_s: float, speed: float) -> tuple[int, Fraction]:
    """Control steps per frame and frames per second, for `speed` times real time at no more than 30 frames/s."""
    if not (math.isfinite(speed) and speed > 0):
        raise ConfigError(f"speed must be a positive number, got {speed}.")
    stride = max(1, math.ceil(speed / (_MAX_FPS * control_dt_s) - 1e-6))
    return stride, Fraction(speed / (stride * control_dt_s)).limit_denominator(1000)


def _instants(clips: Sequence[Clip], stride: int, num_held: int) -> Iterator[tuple[int, int]]:
    """(episode, step) of each frame: until the last world's episode is over, then the end held."""
    for episode in range(clips[0].num_episodes):
        end = max(int(clip.num_steps[episode]) for clip in clips)
        yield from ((episode, step) for step in range(0, end, stride))
        yield from [(episode, end)] * (1 + num_held)


class _Film:
    """Draws a clip, and draws an instant only once."""

    def __init__(self, clip: Clip, backend: str, width: int, height: int):
        self.clip = clip
        self._renderer = Renderer(clip.model, width, height, backend=backend, camera=clip.camera)
        self._last: tuple[int, int] | None = None
        self._frame = np.zeros((height, width, 3), dtype=np.uint8)

    @property
    def backend(self) -> str:
        return self._renderer.backend

    def frame(self, episode: int, step: int) -> np.ndarray:
        if self._last != (episode, step):
            clip, at = self.clip, (episode, step)
            has_mocap = clip.model.nmocap > 0
            mocap = (clip.mocap_pos[at], clip.mocap_quat[at]) if has_mocap else (None, None)
            self._frame, self._last = self._renderer.draw(clip.qpos[at], *mocap), at
        return self._frame

    def __enter__(self) -> _Film:
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.close()


def _panel(film: _Film, episode: int, step: int, decimals: int) -> PanelState:
    clip = film.clip
    end = int(clip.num_steps[episode])
    step = min(step, end)
    running = float(clip.reward[episode, :step].sum())
    finished = [float(r) for r in clip.reward[:episode].sum(1)]
    is_over = step == end
    ending = "diverged" if clip.failed[episode] else "ended" if end < clip.reward.shape[1] else ""
    clock = f"{step * clip.control_dt_s:.2f} s"
    return PanelState(
        frame=film.frame(episode, min(step, clip.last_sound_step(episode))),
        status=(
            f"episode {episode + 1}/{clip.num_episodes}" if clip.num_episodes > 1 else "",
            f"{clock} {ending}" if is_over and ending else clock,
            f"return {running:.{decimals}f}",
        ),
        returns=[*finished, running],
        is_success=bool(step > 0 and clip.success[episode, step - 1]),
    )


def _drawing_models(env: Worlds) -> list[mujoco.MjModel]:
    """What the worlds of each task look like: the environment's scene, or its model with the task's fields."""
    physics = env.spec.physics
    if isinstance(env, GymTaskDistribution):
        return env.models(range(0, env.num_worlds, env.num_worlds // env.num_tasks))
    if physics is None:
        return [env.spec.drawing.model()] * env.num_tasks if env.spec.drawing is not None else []
    task: dict[str, Tensor] = env.spec.tasks.unpack(env.task[:: env.num_worlds // env.num_tasks])
    if env.spec.derive is not None:
        task |= env.spec.derive(task)
    if physics.scene is not None:
        return [physics.scene({name: value[b].cpu() for name, value in task.items()}) for b in range(env.num_tasks)]
    models = [copy.copy(physics.model) for _ in range(env.num_tasks)]
    if physics.configure is not None and isinstance(env, BatchedEnv) and env.engine is not None:
        defaults: Arrays = {name: env.engine.default_model_field(name) for name in physics.model_fields}
        for name, values in physics.configure(task, defaults).items():
            if not name.startswith("opt."):
                for model, value in zip(models, values.cpu().numpy(), strict=True):
                    getattr(model, name)[...] = value
    return models


def _numbers(value: Tensor) -> str:
    texts = [f"{number:.3g}" for number in value.flatten().tolist()]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _random_action(spec: Spec, generator: torch.Generator) -> Tensor:
    space = spec.action_space
    if isinstance(space, Continuous):
        return 2.0 * torch.rand(1, space.dim, generator=generator) - 1.0
    return torch.randint(space.num_actions, (1,), generator=generator)
