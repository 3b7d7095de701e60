"""Scripted experts, metrics of an episode, and model fields written at every step."""

import math
from dataclasses import replace

import mujoco
import pytest
import torch

from metarl.env import BatchedEnv, EnvSpec, Metrics, Outcome, Physics, Start
from metarl.errors import SpecError
from metarl.evaluate import evaluate, metrics_table
from metarl.expert import Expert
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Continuous

SLIDER = """<mujoco><option timestep="0.01"/><worldbody><body><joint name="x" type="slide" axis="1 0 0"/>
<geom size=".1" mass="1"/></body></worldbody>
<actuator><general joint="x" gainprm="10" ctrlrange="-1 1" forcerange="-10 10"/></actuator>
</mujoco>"""
TASKS = TaskDistribution((Parameter("side", "1", Uniform(-1.0, 1.0)),))


def slider_spec(limit=None, expert=None, metrics=None):
    """A mass on a rail; `limit(state)` is the largest force of each step."""

    def step(task, data, state, action, noise):
        reward = data["qpos"][:, 0] * task["side"].sign()
        return Outcome({"age": state["age"] + 1}, reward, torch.zeros_like(reward, dtype=torch.bool))

    def control(task, data, state, action):
        force = limit(state["age"]) if limit else torch.full_like(state["age"], 10.0)
        return {"ctrl": action, "actuator_forcerange": torch.stack([-force, force], 1).unsqueeze(1)}

    return EnvSpec(
        name="slider",
        tasks=TASKS,
        obs_dim=1,
        action_space=Continuous(1),
        horizon=10,
        reset=lambda task, noise: Start({"age": torch.zeros_like(task["side"])}, {}),
        observe=lambda task, data, state: data["qpos"].clone(),
        step=step,
        control=control,
        physics=Physics(
            mujoco.MjModel.from_xml_string(SLIDER),
            1,
            ("qpos",),
            ("actuator_forcerange",),
            lambda task, defaults: {
                "actuator_forcerange": defaults["actuator_forcerange"].expand(len(task["side"]), 1, 2)
            },
        ),
        expert=expert,
        metrics=metrics,
    )


@pytest.mark.parametrize("engine", ["batch", "warp"])
def test_control_writes_model_fields_at_every_step(engine):
    # 10 N on 1 kg, cut to 3 N from the fifth step on: semi-implicit Euler, v += F dt / m, x += v dt.
    spec = slider_spec(limit=lambda age: torch.where(age < 4, 10.0, 3.0))
    env = BatchedEnv(spec, 2, engine=engine)
    env.reset()
    speed = place = 0.0
    for k in range(8):
        obs = env.step(torch.ones(2, 1)).obs
        speed += (10.0 if k < 4 else 3.0) * 0.01
        place += speed * 0.01
        assert obs[:, 0].tolist() == pytest.approx([place, place], rel=1e-4)


def test_the_expert_earns_more_than_any_other_and_is_evaluated_by_name():
    spec = slider_spec(expert=lambda task, obs: task["side"].sign().unsqueeze(1))
    result = evaluate(Expert(), spec, algorithm="expert", num_tasks=8, num_episodes=2)
    assert min(min(row) for row in result.returns) > 0 and result.deterministic
    assert result.returns[0][0] == result.returns[0][1]


def test_without_an_expert_one_clear_error():
    with pytest.raises(SpecError, match="slider has no scripted expert"):
        evaluate(Expert(), slider_spec(), algorithm="expert", num_tasks=2)


def test_an_expert_of_a_wrong_shape_is_named():
    with pytest.raises(SpecError, match=r"slider: expert must have shape \(2, 1\)"):
        BatchedEnv(slider_spec(expert=lambda task, obs: task["side"]), 2)


def test_metrics_are_means_over_the_tasks_they_apply_to():
    def compute(task, data, state):
        half = torch.where(torch.arange(len(state["age"])) < 2, 7.0, math.nan)
        return torch.stack([state["age"], half, torch.full_like(half, math.nan)], 1)

    spec = slider_spec(metrics=Metrics(("steps", "lap_time_s", "never"), compute))
    result = evaluate(Expert(), replace(spec, expert=lambda task, obs: obs), algorithm="x", num_tasks=4, num_episodes=2)
    assert result.metrics == {"steps": [10.0, 10.0], "lap_time_s": [7.0, 7.0], "never": [None, None]}
    assert metrics_table({"x": result})[1] == ["x", "episode 1", "10.0", "7.00", "-"]
    assert metrics_table({"x": evaluate(Expert(), slider_spec(expert=lambda task, obs: obs), algorithm="x")}) == []


def test_metrics_of_a_wrong_shape_are_named():
    metrics = Metrics(("one", "two"), lambda task, data, state: state["age"].unsqueeze(1))
    with pytest.raises(SpecError, match=r"slider: metrics must have shape \(2, 2\)"):
        BatchedEnv(slider_spec(metrics=metrics), 2)
