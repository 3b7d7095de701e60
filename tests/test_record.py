"""Recording shows what the rollout was, panel by panel, and refuses what has no body."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import mujoco
import numpy as np
import pytest
import torch
from PIL import Image

import envs
from metarl.env import BatchedEnv, EnvSpec, Outcome, Physics, Start
from metarl.errors import ConfigError, MetarlError
from metarl.record import Clip, _panel, describe_tasks, frame_rate, record, snapshot, watch, write_clips
from metarl.rollout import collect
from metarl.seeding import make_generator
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Act, Continuous

PENDULUM = """<mujoco><option timestep="0.02"/><worldbody><light pos="0 -2 2" dir="0 1 -1"/>
<camera name="video" pos="0 -2 0" xyaxes="1 0 0 0 0 1"/>
<body><joint name="hinge" axis="0 1 0"/><geom name="rod" type="capsule" fromto="0 0 0 0 0 -.5" size=".04"/></body>
</worldbody><actuator><motor joint="hinge"/></actuator></mujoco>"""


def pendulum(horizon: int = 4) -> EnvSpec:
    """A pendulum that starts at rest; episodes end at `last_step`, and from there on pay nothing."""
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    rod = model.geom("rod").id

    def configure(task, defaults):
        size = defaults["geom_size"].repeat(len(task["radius"]), 1, 1)
        size[:, rod, 0] = task["radius"]
        return {"geom_size": size}

    def step(task, data, state, action, noise):
        time = state["time"] + 1
        return Outcome({"time": time}, torch.ones_like(time), time >= task["last_step"], time >= 2)

    radius = Parameter("radius", "m", Uniform(0.02, 0.08))
    last_step = Parameter("last_step", "1", Uniform(1.0, 10.0))
    return EnvSpec(
        name="pendulum",
        tasks=TaskDistribution((radius, last_step)),
        obs_dim=2,
        action_space=Continuous(1),
        horizon=horizon,
        reset=lambda task, noise: Start({"time": torch.zeros_like(task["radius"])}, {}),
        observe=lambda task, data, state: torch.cat([data["qpos"], data["qvel"]], 1),
        step=step,
        control=lambda task, data, state, action: {"ctrl": action},
        physics=Physics(
            model=model,
            num_substeps=1,
            data_fields=("qpos", "qvel"),
            model_fields=("geom_size",),
            configure=configure,
            max_constraints=4,
        ),
    )


class Pushing:
    """Acts with uniform noise, or always with `constant`."""

    def __init__(self, action_dim: int, constant: float | None = None):
        self.action_dim, self.constant = action_dim, constant

    def initial_memory(self, num_worlds):
        return None

    def act(self, inputs, memory, generator):
        shape = (inputs.obs.shape[0], self.action_dim)
        if self.constant is None:
            action = 2 * torch.rand(shape, generator=generator) - 1
        else:
            action = torch.full(shape, self.constant)
        return Act(action, torch.zeros(shape[0]), memory)

    def trial(self, env, num_episodes, generator, on_step=None):
        return collect(env, self, num_episodes, generator, on_step)


def decode(path: Path) -> tuple[list[np.ndarray], Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], stream.average_rate


def watch_pendulums(*tasks: tuple[float, float], horizon: int = 4, num_episodes: int = 2, push: float = 1.0):
    env = BatchedEnv(pendulum(horizon), len(tasks))
    env.set_tasks(torch.tensor(tasks))
    return watch(Pushing(1, push), env, num_episodes, None)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory):
    spec = envs.make_spec("reach-planar", horizon=6)
    path = tmp_path_factory.mktemp("videos") / "reach.mp4"
    seen = []
    result = record(
        Pushing(2),
        spec,
        spec.tasks.split("test", 2),
        2,
        path,
        generator=make_generator(0, "policy"),
        frame_width=160,
        frame_height=120,
        on_frame=lambda done, total: seen.append((done, total)),
    )
    return result, seen


def test_a_video_has_every_control_step_of_every_episode_at_real_time(recording) -> None:
    result, _ = recording
    frames, rate = decode(result.path)
    # 0.04 s per step; two episodes of the start, 6 steps, and the end held for 0.7 s.
    assert rate == result.fps == 25
    assert len(frames) == result.num_frames == 2 * (1 + 6 + round(0.7 * 25))
    assert frames[0].shape == (result.height, result.width, 3)


def test_the_picture_moves_within_an_episode_and_rests_at_its_end(recording) -> None:
    frames, _ = decode(recording[0].path)
    moving = np.abs(frames[6].astype(int) - frames[0]).mean()
    resting = np.abs(frames[20].astype(int) - frames[12]).mean()
    assert moving > 1.0 > 4 * resting


def test_progress_is_told_frame_by_frame(recording) -> None:
    result, seen = recording
    assert seen == [(i + 1, result.num_frames) for i in range(result.num_frames)]


def test_clips_hold_the_rollout_they_show() -> None:
    clips, rollout = watch_pendulums((0.03, 10.0), (0.06, 3.0))
    for world, clip in enumerate(clips):
        np.testing.assert_array_equal(clip.reward.sum(1), rollout.episode_returns()[:, world])
        assert clip.qpos.shape == (2, 5, 1)
        # The observation starts with qpos, so that both must agree at every instant.
        obs = rollout.obs[:, world, 0].reshape(2, 4)
        np.testing.assert_array_equal(clip.qpos[:, :4, 0], obs)
        np.testing.assert_array_equal(clip.qpos[:, 4, 0], rollout.final_obs[:, world, 0])
    assert [clip.num_steps.tolist() for clip in clips] == [[4, 4], [3, 3]]


def test_a_world_is_drawn_with_the_model_of_its_task() -> None:
    clips, _ = watch_pendulums((0.03, 10.0), (0.06, 10.0))
    np.testing.assert_allclose([clip.model.geom("rod").size[0] for clip in clips], [0.03, 0.06], atol=1e-7)


def test_panels_say_episode_time_and_running_return() -> None:
    (clip, *_), _ = watch_pendulums((0.03, 3.0))
    film = StillFilm(clip)
    start, middle, end = (_panel(film, 1, step, decimals=1) for step in (0, 2, 4))
    assert start.status == ("episode 2/2", "0.00 s", "return 0.0") and start.returns == [3.0, 0.0]
    assert middle.status == ("episode 2/2", "0.04 s", "return 2.0") and middle.returns == [3.0, 2.0]
    # The episode ended in its third step: the clock stops there.
    assert end.status == ("episode 2/2", "0.06 s ended", "return 3.0")
    assert [start.is_success, middle.is_success] == [False, True]


class StillFilm:
    """A clip whose frames are blank, remembering which were asked for."""

    def __init__(self, clip: Clip):
        self.clip, self.asked = clip, []

    def frame(self, episode: int, step: int) -> np.ndarray:
        self.asked.append((episode, step))
        return np.zeros((10, 10, 3), dtype=np.uint8)


def test_a_diverged_world_keeps_its_last_sound_picture(tmp_path: Path) -> None:
    (clip, *_), _ = watch_pendulums((0.03, 10.0))
    qpos = clip.qpos.copy()
    qpos[0, 3:] = np.nan
    broken = replace(clip, qpos=qpos, num_steps=np.array([3, 4]), failed=np.array([True, False]))
    film = StillFilm(broken)
    assert _panel(film, 0, 4, decimals=1).status[1] == "0.06 s diverged"
    assert film.asked == [(0, 2)]
    result = write_clips([broken, clip], tmp_path / "clip.mp4", frame_width=96, frame_height=64)
    assert len(decode(result.path)[0]) == result.num_frames


def test_an_episode_is_over_with_its_last_world(tmp_path: Path) -> None:
    clips, _ = watch_pendulums((0.03, 2.0), (0.03, 3.0), horizon=8, num_episodes=1)
    result = write_clips(clips, tmp_path / "clip.mp4", frame_width=96, frame_height=64)
    # 0.02 s per step: every second step is shown at 25 frames/s: steps 0, 2, the end (3), and the hold.
    assert result.fps == 25 and result.num_frames == 2 + 1 + round(0.7 * 25)


def test_clips_of_two_policies_can_be_shown_side_by_side(tmp_path: Path) -> None:
    (before,), _ = watch_pendulums((0.03, 10.0), push=0.0)
    (after,), _ = watch_pendulums((0.03, 10.0), push=1.0)
    clips = [replace(before, heading=("before", *before.heading)), replace(after, heading=("after", *after.heading))]
    result = write_clips(clips, tmp_path / "pair", title="pendulum", frame_width=96, frame_height=64)
    assert result.path.name == "pair.mp4" and result.width == 2 * 96 + 3 * 8


def test_clips_that_do_not_run_in_step_are_refused(tmp_path: Path) -> None:
    (one,), _ = watch_pendulums((0.03, 10.0), num_episodes=1)
    (two,), _ = watch_pendulums((0.03, 10.0), num_episodes=2)
    for clips in ([], [one, two], [one, replace(one, control_dt_s=0.5)]):
        with pytest.raises(ConfigError, match="same number of episodes and control_dt_s"):
            write_clips(clips, tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_environment_without_a_body_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    spec = envs.make_spec("bandit")
    with pytest.raises(MetarlError, match=r"bandit has no body.*Environments with a body: .*reach-planar") as error:
        record(Pushing(1), spec, spec.tasks.split("test", 2), 2, tmp_path / "clip.mp4")
    assert "tabular-mdp" not in str(error.value)


@pytest.mark.parametrize(
    ("control_dt_s", "speed", "expected"),
    [
        (0.05, 1.0, (1, 20)),  # every step, in real time
        (0.01, 1.0, (4, 25)),  # 100 steps/s: every fourth
        (0.05, 2.0, (2, 20)),  # 40 frames/s would be too many
        (0.04, 0.5, (1, Fraction(25, 2))),
        (1 / 30, 1.0, (1, 30)),
    ],
)
def test_videos_run_in_real_time_at_no_more_than_30_frames_per_second(control_dt_s, speed, expected) -> None:
    assert frame_rate(control_dt_s, speed) == expected


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_not_positive_is_refused(speed: float) -> None:
    with pytest.raises(ConfigError, match="speed must be a positive number"):
        frame_rate(0.05, speed)


def test_task_parameters_are_named_with_value_and_unit() -> None:
    tasks = TaskDistribution(
        (
            Parameter("payload_mass", "kg", Uniform(0.0, 5.0)),
            Parameter("grip", "1", Uniform(0.0, 1.0)),
            Parameter("goal", "m", Uniform(-1.0, 1.0), shape=(2,)),
            Parameter("road", "1", Uniform(-1.0, 1.0), shape=(9,)),
        )
    )
    values = torch.cat([torch.tensor([[3.14159, 0.5, 0.25, -0.5]]), torch.zeros(1, 9)], 1)
    assert describe_tasks(tasks, values) == [("payload mass 3.14 kg", "grip 0.5", "goal (0.25, -0.5) m")]


def test_a_snapshot_shows_one_frame_per_environment(tmp_path: Path) -> None:
    specs = [envs.make_spec("reach-planar"), pendulum()]
    first, second = (
        snapshot(specs, tmp_path / name, frame_width=96, frame_height=64, num_steps=3) for name in ("a.png", "b.png")
    )
    with Image.open(first) as image:
        assert image.format == "PNG" and image.width == 2 * 96 + 3 * 8
        assert len(image.getcolors(100_000) or []) > 100, "the picture is blank"
    assert first.read_bytes() == second.read_bytes(), "the same seed must give the same picture"


def test_an_environment_without_physics_is_drawn_where_its_state_says() -> None:
    spec = envs.make_spec("point-navigation", horizon=3)
    env = BatchedEnv(spec, 1)
    env.set_tasks(torch.tensor([[0.25, -0.5]]))
    (clip,), _ = watch(Pushing(2, 1.0), env, 2, None)
    np.testing.assert_allclose(clip.qpos[1, :, 0], [0.0, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(clip.mocap_pos[0, 0, 0, :2], [0.25, -0.5])
    assert clip.model.nq == 2
