"""The ant with a dead leg: no torque, half as long to touch the ground with, and which leg is not told."""

import numpy as np
import pytest
import torch

import envs
from envs.locomotion.ant_body import LEG_GEOMS
from envs.locomotion.bodies import DEAD
from metarl.env import BatchedEnv, Noise

NAME = "ant-crippled"
MOTORS = {0: (2, 3), 1: (4, 5), 2: (6, 7), 3: (0, 1)}
"""Of each leg, as in the source."""


def env_on_all_legs():
    env = envs.make(NAME, 4, seed=1)
    env.set_tasks(torch.arange(4.0).unsqueeze(1))
    return env


def test_a_dead_leg_gets_no_torque_and_the_others_all():
    env = env_on_all_legs()
    env.reset()
    env.step(torch.full((4, 8), 0.7))
    for leg, motors in MOTORS.items():
        expected = torch.full((8,), 0.7)
        expected[list(motors)] = 0.0
        torch.testing.assert_close(env.engine.data("ctrl")[leg], expected)


def test_motors_and_geoms_of_a_leg_belong_together():
    model = envs.make_spec(NAME).physics.model
    for leg, motors in MOTORS.items():
        bodies = [model.jnt_bodyid[model.actuator_trnid[motor, 0]] for motor in motors]
        assert [model.geom_bodyid[model.geom(name).id] for name in LEG_GEOMS[leg]] == [bodies[0], bodies[1]]


def test_the_reward_is_the_speed_of_the_centre_of_mass_and_no_action_costs_anything():
    spec = envs.make_spec(NAME)
    task = {"leg": torch.zeros(1)}
    task |= spec.derive(task)
    data = {
        "qpos": torch.zeros(1, 15),
        "sensordata": torch.tensor([[1.5, 9.0, 9.0]]),
        "subtree_com": torch.ones(1, 2, 3),
    }
    result = spec.step(task, data, {}, torch.ones(1, 8), Noise(torch.zeros(1, 0), torch.zeros(1, 0)))
    assert result.reward.item() == pytest.approx(1.55)
    assert not result.terminated.any() and result.success is None


def test_a_dead_leg_is_half_as_long_and_ends_where_half_of_its_shin_was():
    spec = envs.make_spec(NAME)
    model = spec.physics.model
    defaults = {"geom_size": torch.tensor(model.geom_size).float(), "geom_pos": torch.tensor(model.geom_pos).float()}
    fields = spec.physics.configure({"leg": torch.arange(4.0)}, defaults)
    short = {0: "left", 1: "right", 2: "third", 3: "fourth"}
    for leg, (thigh, shin) in enumerate(LEG_GEOMS):
        thigh, shin = model.geom(thigh).id, model.geom(shin).id
        assert shin == model.geom(f"{short[leg]}_ankle_geom").id
        size, pos = fields["geom_size"][leg], fields["geom_pos"][leg]
        torch.testing.assert_close(size[thigh, :2], torch.tensor([0.04, 0.1 / 2**0.5]), atol=1e-6, rtol=0)
        torch.testing.assert_close(size[shin, :2], torch.tensor([0.04, 0.2 / 2**0.5]), atol=1e-6, rtol=0)
        # The shin begins at the ankle and is 0.2 m long along x and along y.
        torch.testing.assert_close(pos[shin, :2].abs(), torch.tensor([0.1, 0.1]), atol=1e-6, rtol=0)
        torch.testing.assert_close(pos[shin].sign(), defaults["geom_pos"][shin].sign())
        others = [g for g in range(model.ngeom) if g not in (thigh, shin)]
        torch.testing.assert_close(size[others], defaults["geom_size"][others])
        torch.testing.assert_close(pos[others], defaults["geom_pos"][others])


def test_an_ant_sinks_where_its_leg_is_short():
    """Motors at rest for 2 s: the torso leans towards the dead leg."""
    env = env_on_all_legs()
    env.reset()
    for _ in range(40):
        env.step(torch.zeros(4, 8))
    up = env.engine.data("xmat")[:, 1, [6, 7]]  # of the world, in the axes of the torso: its x and y part
    towards_leg = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    assert bool(((up * towards_leg).sum(1) < -0.02).all()), up


def test_training_never_sees_the_held_out_leg():
    tasks = envs.make_spec(NAME).tasks
    assert tasks.split("train", 200).unique().tolist() == [0.0, 1.0, 2.0]
    assert tasks.split("extrapolation", 50).unique().tolist() == [3.0]


def test_only_the_dead_leg_is_drawn_dark():
    scene = envs.make_spec(NAME).physics.scene({"leg": torch.tensor(2.0)})
    for leg, names in enumerate(LEG_GEOMS):
        for name in names:
            assert np.allclose(scene.geom_rgba[scene.geom(name).id], DEAD) == (leg == 2)
    assert scene.camera("video").id >= 0
    size = scene.geom_size[[scene.geom(name).id for name in LEG_GEOMS[2]], 1]
    np.testing.assert_allclose(size, [0.1 / 2**0.5, 0.2 / 2**0.5], rtol=1e-6)
    np.testing.assert_allclose(scene.body_mass, envs.make_spec(NAME).physics.model.body_mass, rtol=1e-12)


@pytest.mark.slow
def test_both_engines_give_the_same_crippled_ant():
    pair = [BatchedEnv(envs.make_spec(NAME), 4, engine=engine, seed=1) for engine in ("batch", "warp")]
    for env in pair:
        env.set_tasks(torch.arange(4.0).unsqueeze(1))
    torch.testing.assert_close(*[env.reset() for env in pair], atol=1e-6, rtol=0)
    generator = torch.Generator().manual_seed(0)
    for t in range(100):
        action = 2 * torch.rand(4, 8, generator=generator) - 1
        steps = [env.step(action) for env in pair]
        assert all(bool(torch.isfinite(step.obs).all()) and not bool(step.failed.any()) for step in steps)
        if t < 1:  # until the feet touch the ground
            torch.testing.assert_close(steps[0].obs, steps[1].obs, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=1e-3, rtol=1e-3)
