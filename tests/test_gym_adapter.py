"""Environments through gymnasium: one world, and many that restart one by one on the batched engine."""

import subprocess
import sys
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
import metarl
from metarl.env import BatchedEnv, EnvSpec, Outcome, Physics, Start
from metarl.errors import ConfigError, RenderError, SpecError, UnknownNameError
from metarl.gym_adapter import GymEnv, GymVectorEnv
from metarl.gym_registration import environment_id
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Continuous
from tests.probes import countdown, hidden_lever, hidden_target

FALLING = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.01"/>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="video" pos="0 -3 1" xyaxes="1 0 0 0 0 1"/>
    <body name="arm" pos="0 0 1">
      <joint name="hinge" type="hinge" axis="0 1 0"/>
      <geom name="rod" type="capsule" size="0.05" fromto="0 0 0 0.5 0 0" mass="1" rgba="1 0 0 1"/>
    </body>
  </worldbody>
  <actuator><motor joint="hinge" gear="5"/></actuator>
</mujoco>
"""


def falling(horizon=8):
    """An arm of unknown mass that falls; the episode ends below 0.3 rad. An action above 0.9 breaks the simulation."""

    def configure(task, defaults):
        mass = defaults["body_mass"].repeat(len(task["mass"]), 1)
        mass[:, 1] = task["mass"]
        return {"body_mass": mass}

    def control(task, data, state, action):
        return {"ctrl": torch.where(action > 0.9, torch.nan, action)}

    def observe(task, data, state):
        return torch.cat([data["qpos"], data["qvel"]], 1)

    def step(task, data, state, action, noise):
        angle = data["qpos"][:, 0]
        return Outcome({"time": state["time"] + 1}, angle, angle > 0.3)

    def reset(task, noise):
        return Start({"time": torch.zeros_like(task["mass"])}, {"qpos": 0.1 * noise.uniform})

    model = mujoco.MjModel.from_xml_string(FALLING)
    physics = Physics(model, 2, ("qpos", "qvel"), ("body_mass",), configure, uses_set_const=True)
    tasks = TaskDistribution((Parameter("mass", "kg", Uniform(0.5, 5.0)),))
    return EnvSpec(
        "falling",
        tasks,
        2,
        Continuous(1),
        horizon,
        reset,
        observe,
        step,
        control=control,
        reset_noise=(1, 0),
        physics=physics,
    )


def still(horizon=8):
    """`falling`, but always starting level: nothing about it is random."""
    spec = falling(horizon)
    level = {"qpos": torch.zeros(1)}
    return EnvSpec(
        **{name: getattr(spec, name) for name in spec.__dataclass_fields__ if name not in ("reset", "reset_noise")},
        reset=lambda task, noise: Start(
            {"time": torch.zeros_like(task["mass"])}, {"qpos": level["qpos"].expand(len(task["mass"]), 1)}
        ),
    )


def quiet_check(env, **options):
    """The warnings of gymnasium's check_env."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, **options)
    return [str(warning.message) for warning in caught]


def test_names_become_gymnasium_ids():
    assert environment_id("half-cheetah-vel-maml") == "metarl/HalfCheetahVelMaml-v0"
    assert environment_id("bandit") == "metarl/Bandit-v0"
    assert {environment_id(name) for name in envs.names()} <= set(gymnasium.registry)


def test_import_of_the_package_registers_without_loading_torch():
    code = (
        "import sys, metarl, gymnasium;"
        "assert gymnasium.spec('metarl/ReachPlanar-v0').kwargs == {'env': 'reach-planar'};"
        "assert 'torch' not in sys.modules and 'mujoco' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gymnasium_makes_an_environment_by_module_and_id_alone():
    code = "import gymnasium; print(gymnasium.make('metarl:metarl/Bandit-v0').reset(seed=0)[0].shape)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "(1,)"


@pytest.mark.parametrize("name", [name for name in envs.names() if not name.startswith("metaworld")])
def test_check_env_has_nothing_to_say_but_that_observations_are_unbounded(name):
    env = gymnasium.make(environment_id(name)).unwrapped
    found = quiet_check(env, skip_render_check=True)
    expected = ("observation space minimum value is -infinity", "observation space maximum value is infinity", "a spec")
    assert all(any(part in message for part in expected) for message in found), found
    env.close()


@pytest.mark.parametrize("spec", [hidden_lever(), hidden_target(), countdown(), falling()])
def test_environments_of_a_specification_pass_check_env(spec):
    found = quiet_check(GymEnv(spec))
    expected = ("infinity", "not having a spec")
    assert all(any(part in message for part in expected) for message in found), found


def test_seed_repeats_tasks_and_episodes_and_every_reset_draws_a_task():
    def run(seed):
        env = GymEnv(falling())
        tasks, observations = [], []
        for i in range(3):
            obs, info = env.reset(seed=seed if i == 0 else None)
            tasks.append(info["task"]["mass"])
            observations += [obs, env.step(np.array([0.2]))[0]]
        return tasks, np.array(observations)

    tasks, observations = run(5)
    again, same = run(5)
    other, _ = run(6)
    assert tasks == again
    assert np.array_equal(observations, same)
    assert len({*tasks, *other}) == 6


def test_tasks_come_from_the_split():
    env = GymEnv(hidden_target(), split="interpolation")
    drawn = [env.reset(seed=0 if i == 0 else None)[1]["task"]["target"] for i in range(20)]
    assert max(abs(target) for target in drawn) <= 0.1
    vector = GymVectorEnv(hidden_target(), 20, split="extrapolation")
    assert (vector.reset(seed=0)[1]["task"]["target"] >= 0.8).all()


def test_fixed_task_stays_and_an_optional_one_lasts_for_its_episode():
    env = GymEnv(hidden_target(), task={"target": 0.25})
    assert env.reset()[1]["task"] == {"target": 0.25}
    assert env.reset(options={"task": {"target": -0.5}})[1]["task"] == {"target": -0.5}
    # Reward -(action - target)^2.
    assert env.step(np.array([0.5], np.float32))[1] == -1.0
    assert env.reset()[1]["task"] == {"target": 0.25}
    assert env.step(np.array([0.25], np.float32))[1] == 0.0


def test_changing_ones_own_task_array_between_resets_changes_the_task():
    vector, tasks = GymVectorEnv(hidden_target(), 2), torch.tensor([[0.25], [0.5]])
    vector.reset(options={"task": tasks})
    tasks[0, 0] = -0.25
    assert vector.reset(options={"task": tasks})[1]["task"]["target"].tolist() == [-0.25, 0.5]


def test_spaces_and_types():
    env = GymEnv(hidden_lever())
    assert env.action_space == gymnasium.spaces.Discrete(3)
    obs, _ = env.reset()
    new, reward, terminated, truncated, info = env.step(np.int64(1))
    assert obs.dtype == new.dtype == np.float32
    assert (type(reward), type(terminated), type(truncated), type(info["success"])) == (float, bool, bool, bool)
    vector = GymVectorEnv(hidden_target(), 3)
    vector.reset()
    obs, reward, terminated, truncated, _ = vector.step(vector.action_space.sample())
    assert obs in vector.observation_space
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float32, np.bool_, np.bool_)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("make_spec", [still, countdown, hidden_lever])
def test_vector_environment_is_the_same_as_gymnasiums_own_around_single_worlds(make_spec, mode):
    # One task for all, nothing random, but every world acts differently, so that the arms fall at different times.
    spec = make_spec()
    task = spec.tasks.split("test", 1)[0]
    ours = GymVectorEnv(spec, 4, task=task, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: GymEnv(spec, task=task)] * 4, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    ends = 0
    for _ in range(30):
        if isinstance(spec.action_space, Continuous):
            actions = (rng.uniform(-1.0, 0.9, (4, 1)) - np.linspace(0.0, 0.4, 4)[:, None]).astype(np.float32)
        else:
            actions = rng.integers(0, 3, 4)
        a, b = ours.step(actions), theirs.step(actions)
        for i in range(4):
            np.testing.assert_array_equal(a[i], b[i])
        ends += int((a[2] | a[3]).sum())
        nothing = np.zeros(4, np.bool_)
        for key in ("success", "_success", "failed", "_failed", "_final_obs", "_final_info"):
            np.testing.assert_array_equal(a[4].get(key, nothing), b[4].get(key, nothing))
        for key in ("success", "_success", "failed", "_failed"):
            final = [step[4].get("final_info", {}).get(key, nothing) for step in (a, b)]
            np.testing.assert_array_equal(*final)
        for i in np.flatnonzero(a[4].get("_final_obs", [])):
            np.testing.assert_array_equal(a[4]["final_obs"][i], b[4]["final_obs"][i])
    assert ends > 8


def test_worlds_restart_one_by_one_on_new_tasks_with_their_own_time_limit():
    # Lives of 2, 4 and 100 steps under a limit of 6, each step pays 1; NEXT_STEP spends one step on a restart.
    vector = GymVectorEnv(countdown(horizon=6), 5)
    life = vector.reset(seed=0)[1]["task"]["life"].copy()
    age, lives, asynchronous = np.zeros(5), [], False
    for _ in range(60):
        over = age >= np.minimum(life, 6)
        obs, reward, terminated, truncated, infos = vector.step(np.zeros((5, 1), np.float32))
        np.testing.assert_array_equal(infos.get("_task", np.zeros(5, np.bool_)), over)
        if over.any():
            life = np.where(over, infos["task"]["life"], life)
            lives += life[over].tolist()
        age = np.where(over, 0, age + 1)
        asynchronous |= len(set(age.tolist())) > 2
        np.testing.assert_array_equal(obs[:, 0], age)
        np.testing.assert_array_equal(reward, ~over)
        np.testing.assert_array_equal(terminated, age == life)
        np.testing.assert_array_equal(truncated, (age == 6) & (life > 6))
    assert set(lives) == {2.0, 4.0, 100.0}
    assert asynchronous


@pytest.mark.parametrize("engine", ["batch", pytest.param("warp", marks=pytest.mark.slow)])
def test_restarting_a_world_on_a_new_task_leaves_the_others_alone_to_the_last_bit(engine):
    spec = falling(horizon=20)
    tasks = spec.tasks.split("test", 3)
    actions = torch.rand(12, 3, 1, generator=torch.Generator().manual_seed(0)) - 0.5

    def run(restarts):
        env = BatchedEnv(spec, 3, engine=engine)
        env.set_tasks(tasks)
        observations = [env.reset()]
        for t, action in enumerate(actions):
            observations.append(env.step(action).obs)
            if restarts and t % 3 == 1:
                env.reset_worlds(torch.tensor([False, True, False]), tasks.flip(0) + t)
        return torch.stack(observations)

    alone, beside = run(False), run(True)
    assert torch.equal(alone[:, [0, 2]], beside[:, [0, 2]])
    assert not torch.equal(alone[:, 1], beside[:, 1])


def test_world_restarted_on_a_task_moves_as_if_it_had_always_had_it():
    spec = still(horizon=20)
    env, reference = BatchedEnv(spec, 2), BatchedEnv(spec, 2)
    env.set_tasks(torch.tensor([[1.0], [4.0]]))
    reference.set_tasks(torch.tensor([[1.0], [2.0]]))
    env.reset()
    reference.reset()
    for _ in range(3):
        env.step(torch.full((2, 1), 0.3))
    env.reset_worlds(torch.tensor([False, True]), torch.tensor([[9.0], [2.0]]))
    assert env.task.tolist() == [[1.0], [2.0]]
    for _ in range(5):
        assert torch.equal(env.step(torch.full((2, 1), 0.3)).obs[1], reference.step(torch.full((2, 1), 0.3)).obs[1])


def test_failed_world_ends_is_told_and_starts_again_while_the_others_go_on():
    vector = GymVectorEnv(still(), 2, task={"mass": 1.0}, autoreset_mode="SameStep")
    vector.reset(seed=0)
    lift = np.full((2, 1), -0.5, np.float32)
    vector.step(lift)
    obs, reward, terminated, _, infos = vector.step(np.array([[1.0], [-0.5]], np.float32))
    assert terminated.tolist() == [True, False]
    assert infos["final_info"]["failed"].tolist() == [True, False]
    assert reward[0] == 0.0
    assert obs[0].tolist() == [0.0, 0.0]
    assert np.isfinite(obs).all()
    after = vector.step(lift)
    assert after[2].tolist() == [False, False]
    assert after[0][0, 0] != 0.0


def test_disabled_autoreset_restarts_the_worlds_of_a_mask_only():
    vector = GymVectorEnv(countdown(), 2, task={"life": 2.0}, autoreset_mode="DISABLED")
    vector.reset(seed=0)
    action = np.zeros((2, 1), np.float32)
    vector.step(action)
    assert vector.step(action)[2].tolist() == [True, True]
    obs, infos = vector.reset(options={"reset_mask": np.array([False, True])})
    assert obs[:, 0].tolist() == [2.0, 0.0]
    assert infos["_task"].tolist() == [False, True]
    assert vector.step(action)[1].tolist() == [0.0, 1.0]
    with pytest.raises(ConfigError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.zeros(2, np.bool_)})


def test_make_vec_runs_on_the_batched_engine_and_declares_its_autoreset_mode():
    vector = gymnasium.make_vec("metarl/ReachPlanar-v0", num_envs=3, split="test", autoreset_mode="SameStep")
    assert isinstance(vector, GymVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    first, infos = vector.reset(seed=1)
    assert infos["task"]["goal_angle"].shape == (3,)
    assert len(set(infos["task"]["goal_angle"].tolist())) == 3
    np.testing.assert_array_equal(first, vector.reset(seed=1)[0])
    assert not np.array_equal(first, vector.reset(seed=2)[0])
    for _ in range(20):
        *_, truncated, infos = vector.step(vector.action_space.sample())
    assert truncated.all() and infos["_final_obs"].all()
    vector.close()
    vector.close()


def test_options_go_to_the_environments_factory():
    assert gymnasium.make("metarl/Bandit-v0", num_arms=7).action_space == gymnasium.spaces.Discrete(7)
    assert gymnasium.make_vec("metarl/Bandit-v0", 2, num_arms=7).single_action_space == gymnasium.spaces.Discrete(7)
    with pytest.raises(UnknownNameError, match="num_arms"):
        gymnasium.make("metarl/Bandit-v0", num_arm=7)
    with pytest.raises(SpecError, match="horizon"):
        GymEnv(hidden_lever(), horizon=3)


def test_frames_show_the_world():
    env = GymEnv(still(), render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (48, 64, 3) and first.dtype == np.uint8
    assert env.metadata["render_fps"] == 50
    for _ in range(5):
        env.step(np.array([0.8], np.float32))
    assert not np.array_equal(first, env.render())
    env.close()
    env.close()
    vector = GymVectorEnv(still(), 2, render_mode="rgb_array", width=64, height=48)
    vector.reset(seed=0)
    vector.step(np.array([[0.9], [-0.9]], np.float32))
    left, right = vector.render()
    assert left.shape == (48, 64, 3) and not np.array_equal(left, right)


def test_wrong_arguments_are_named():
    with pytest.raises(UnknownNameError, match="interpolation"):
        GymEnv(hidden_target(), split="interpolate")
    with pytest.raises(UnknownNameError, match="target"):
        GymEnv(hidden_target(), task={"taget": 0.1})
    with pytest.raises(SpecError, match="missing"):
        GymEnv(hidden_target(), task={})
    with pytest.raises(SpecError, match=r"shape \(1,\), got \(2,\)"):
        GymEnv(hidden_target(), task=torch.zeros(2))
    with pytest.raises(UnknownNameError, match="reach-planar"):
        GymEnv("reach-plana")
    with pytest.raises(RenderError, match="no body"):
        GymEnv(hidden_target(), render_mode="rgb_array")
    with pytest.raises(UnknownNameError, match="rgb_array"):
        GymEnv(still(), render_mode="ansi")
    with pytest.raises(UnknownNameError, match="NextStep"):
        GymVectorEnv(hidden_target(), 2, autoreset_mode="next")
    vector = GymVectorEnv(hidden_lever(), 2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(np.zeros(2, np.int64))
    with pytest.raises(ConfigError, match="one integer"):
        vector.reset(seed=[1, 2])
    vector.reset()
    with pytest.raises(SpecError, match=r"integers 0\.\.2"):
        vector.step(np.array([0, 3]))
    continuous = GymVectorEnv(hidden_target(), 2)
    continuous.reset()
    with pytest.raises(SpecError, match="finite"):
        continuous.step(np.array([[np.nan], [0.0]]))
    with pytest.raises(SpecError, match="shape"):
        continuous.step(np.zeros((2, 2)))


def test_package_has_a_version():
    assert metarl.__version__.count(".") == 2
