"""ProMP's walker with a hidden velocity: gymnasium's body, the paper's reward and end."""

import mujoco
import numpy as np
import pytest
import torch

import envs
from envs.locomotion.bodies import load_body
from metarl.env import BatchedEnv, Noise

NAME = "walker-vel"
NO_NOISE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def outcome(qpos, velocity=4.0, action=0.5):
    data = {"qpos": torch.zeros(1, 9), "qvel": torch.zeros(1, 9)}
    data["qpos"][0, : len(qpos)] = torch.tensor(qpos)
    task, state = {"velocity": torch.tensor([velocity])}, {"x": torch.tensor([0.2])}
    return envs.make_spec(NAME).step(task, data, state, torch.full((1, 6), action), NO_NOISE)


def test_the_reward_is_fifteen_less_the_error_of_the_speed():
    # 0.04 m in 0.016 s are 2.5 m/s; six actions of 0.5 cost 0.001 x 1.5.
    assert outcome((0.24, 1.2)).reward.item() == pytest.approx(15.0 - 1.5 - 0.0015, abs=1e-4)
    assert outcome((0.24, 1.2), velocity=0.0).reward.item() == pytest.approx(15.0 - 2.5 - 0.0015, abs=1e-4)


@pytest.mark.parametrize(
    ("height", "pitch", "ends"),
    [
        (0.79, 0.0, True),
        (0.81, 0.0, False),
        (1.99, 0.0, False),
        (2.01, 0.0, True),
        (1.2, 0.99, False),
        (1.2, -1.01, True),
    ],
)
def test_an_episode_ends_when_the_robot_falls(height, pitch, ends):
    assert outcome((0.0, height, pitch)).terminated.tolist() == [ends]


def test_the_observation_has_clipped_velocities_and_no_x():
    data = {"qpos": torch.arange(9.0).expand(1, -1), "qvel": 5.0 * torch.arange(9.0).expand(1, -1)}
    obs = envs.make_spec(NAME).observe({}, data, {})[0].tolist()
    assert obs == [*range(1, 9), 0.0, 5.0, *[10.0] * 7]


def test_steps_and_rewards_are_those_of_gymnasiums_body():
    source = load_body("walker2d.xml")
    source.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    model = source.compile()
    data = mujoco.MjData(model)
    env = envs.make(NAME, 1, seed=3)
    env.set_tasks(torch.tensor([[2.0]]))
    env.reset()
    data.qpos[:], data.qvel[:] = env.engine.data("qpos")[0], env.engine.data("qvel")[0]
    assert float(np.abs(data.qpos - model.qpos0).max()) <= 0.005 and float(np.abs(data.qvel).max()) <= 0.005
    generator = torch.Generator().manual_seed(0)
    num_valid = 0
    for _ in range(15):
        x, action = data.qpos[0], 2 * torch.rand(1, 6, generator=generator) - 1
        step = env.step(action)
        data.ctrl[:] = action[0]
        mujoco.mj_step(model, data, 8)
        np.testing.assert_allclose(
            step.obs[0], np.concatenate([data.qpos[1:], np.clip(data.qvel, -10, 10)]), rtol=1e-3, atol=2e-3
        )
        reward = 15.0 - abs((data.qpos[0] - x) / 0.016 - 2.0) - 1e-3 * float(action.square().sum())
        assert step.reward.item() == pytest.approx(reward if bool(step.valid) else 0.0, abs=2e-3)
        num_valid += int(step.valid)
    assert num_valid >= 5


def test_velocities_are_promps_and_faster_ones_are_held_out():
    spec = envs.make_spec(NAME)
    test, far = spec.tasks.split("test", 1000), spec.tasks.split("extrapolation", 200)
    assert 0.0 <= float(test.min()) < 0.1 and 9.9 < float(test.max()) <= 10.0
    assert float(far.min()) >= 10.0 and float(far.max()) <= 12.0
    assert spec.physics.control_dt_s == pytest.approx(0.016) and spec.horizon == 200


def test_the_drawn_scene_moves_like_the_simulated_model_and_has_a_post_per_second():
    physics = envs.make_spec(NAME).physics
    scene, model = physics.scene({"velocity": torch.tensor(3.0)}), physics.model
    np.testing.assert_allclose(scene.body_mass, model.body_mass, rtol=1e-12)
    assert scene.nq == model.nq and scene.camera("video").id >= 0
    posts = np.sort(scene.geom_pos[[g for g in range(scene.ngeom) if scene.geom(g).name == ""], 0])
    np.testing.assert_allclose(np.diff(posts), 3.0)


@pytest.mark.slow
def test_both_engines_give_the_same_walker():
    pair = [BatchedEnv(envs.make_spec(NAME), 4, engine=engine, seed=1) for engine in ("batch", "warp")]
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(*[env.reset() for env in pair], atol=1e-6, rtol=0)
    for t in range(100):
        action = 2 * torch.rand(4, 6, generator=generator) - 1
        steps = [env.step(action) for env in pair]
        assert all(bool(torch.isfinite(step.obs).all()) and not bool(step.failed.any()) for step in steps)
        if t < 8:
            torch.testing.assert_close(steps[0].obs, steps[1].obs, atol=1e-2, rtol=1e-2)
            torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=1e-2, rtol=1e-2)
