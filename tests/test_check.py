"""A wrong specification fails at construction and is named; a wrong task distribution fails its check."""

from dataclasses import replace

import mujoco
import pytest
import torch

from metarl.check import check_splits, check_task_distribution
from metarl.env import BatchedEnv, EnvSpec, Outcome, Physics, Start
from metarl.errors import EngineError, SpecError, UnknownNameError
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Continuous, Discrete

CART = mujoco.MjModel.from_xml_string("""
<mujoco><compiler angle="radian"/><option timestep=".02" gravity="0 0 0"/>
  <worldbody>
    <body name="goal" mocap="true"><geom size=".1" contype="0" conaffinity="0"/></body>
    <body name="cart"><joint name="x" type="slide" axis="1 0 0" damping="1"/><geom size=".1" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="x" gear="5"/></actuator>
</mujoco>""")

TASKS = TaskDistribution(
    (
        Parameter("goal", "m", Uniform(-1.0, 1.0, shell=((1.0, 1.5),))),
        Parameter("mass", "kg", Uniform(0.5, 2.0, hole=(1.0, 1.2))),
    )
)


def configure(task, defaults):
    mass = defaults["body_mass"].repeat(len(task["mass"]), 1)
    mass[:, 2] = task["mass"]
    return {"body_mass": mass}


def reset(task, noise):
    goal = torch.nn.functional.pad(task["goal"][:, None, None], (0, 2))
    return Start({"best": torch.zeros_like(task["goal"])}, {"qpos": 0.1 * noise.normal, "mocap_pos": goal})


def observe(task, data, state):
    return torch.cat([data["qpos"], data["qvel"]], 1)


def step(task, data, state, action, noise):
    reward = -(data["qpos"][:, 0] - task["goal"]).abs()
    return Outcome({"best": torch.maximum(state["best"], reward)}, reward, reward > 10.0, reward > -0.1)


CART_SPEC = EnvSpec(
    name="cart",
    tasks=TASKS,
    obs_dim=2,
    action_space=Continuous(1),
    horizon=20,
    reset=reset,
    observe=observe,
    step=step,
    control=lambda task, data, state, action: {"ctrl": action},
    reset_noise=(0, 1),
    physics=Physics(CART, 2, ("qpos", "qvel"), ("body_mass",), configure, uses_set_const=True),
)


def lever_reset(task, noise):
    return Start({"time": torch.zeros_like(task["pay"])}, {})


def lever_observe(task, data, state):
    return state["time"].unsqueeze(1)


def lever_step(task, data, state, action, noise):
    reward = torch.where(action == 1, task["pay"], 0.0)
    return Outcome({"time": state["time"] + 1.0}, reward, torch.zeros_like(reward, dtype=torch.bool))


LEVER_SPEC = EnvSpec(
    name="lever",
    tasks=TaskDistribution((Parameter("pay", "1", Uniform(0.0, 1.0)),)),
    obs_dim=1,
    action_space=Discrete(2),
    horizon=5,
    reset=lever_reset,
    observe=lever_observe,
    step=lever_step,
)


def changed_outcome(**fields):
    return lambda *args: lever_step(*args)._replace(**{name: make(args) for name, make in fields.items()})


def test_sound_task_distributions_pass():
    check_task_distribution(CART_SPEC)
    check_task_distribution(lambda: LEVER_SPEC, num_tasks=4)
    check_task_distribution("bandit", num_arms=3)


WRONG_LEVERS = {
    "observe must be a tensor, got ndarray": {"observe": lambda task, data, state: state["time"].numpy()},
    "observe must have shape (3, 1), got (3,)": {"observe": lambda task, data, state: state["time"]},
    "observe must have dtype torch.float32, got torch.float64": {
        "observe": lambda task, data, state: state["time"].double().unsqueeze(1)
    },
    "observe contains NaN or infinity": {"observe": lambda task, data, state: state["time"].unsqueeze(1) / 0.0},
    "observe raised KeyError: 'prize'. The arrays it was given: [pay]; []; [time]": {
        "observe": lambda task, data, state: task["prize"]
    },
    "reset must return Start(state, writes), got dict": {"reset": lambda task, noise: {}},
    "reset, state must be a dict of tensors, got list": {"reset": lambda task, noise: Start([], {})},
    "reset, state 'time' must have shape (3,), got (1,)": {
        "reset": lambda task, noise: Start({"time": torch.zeros(1)}, {})
    },
    "reset, writes must be empty without physics, got ['qpos']": {
        "reset": lambda task, noise: lever_reset(task, noise)._replace(writes={"qpos": torch.zeros(3, 1)})
    },
    "step raised TypeError": {"step": lambda task, data: None},
    "step must return Outcome(state, reward, terminated, success), got tuple": {
        "step": lambda *args: tuple(lever_step(*args))
    },
    "step, reward must have shape (3,), got (3, 1)": {
        "step": changed_outcome(reward=lambda args: torch.zeros(3, 1)),
    },
    "step, reward must have dtype torch.float32, got torch.int64": {
        "step": changed_outcome(reward=lambda args: args[3]),
    },
    "step, terminated must have dtype torch.bool, got torch.float32": {
        "step": changed_outcome(terminated=lambda args: torch.zeros(3)),
    },
    "step, success must have shape (3,), got (2,)": {
        "step": changed_outcome(success=lambda args: torch.zeros(2, dtype=torch.bool)),
    },
    "step must keep names, shapes and dtypes of state": {
        "step": changed_outcome(state=lambda args: {"clock": args[2]["time"]}),
    },
    "derive must be a dict of tensors, got NoneType": {"derive": lambda task: None},
    "derive 'table' must have shape (3, 4), got (1, 4)": {"derive": lambda task: {"table": torch.zeros(1, 4)}},
}


@pytest.mark.parametrize("message", WRONG_LEVERS)
def test_a_wrong_function_fails_at_construction_and_is_named(message):
    with pytest.raises(SpecError) as error:
        BatchedEnv(replace(LEVER_SPEC, **WRONG_LEVERS[message]), 3)
    assert f"lever: {message}" in str(error.value)


WRONG_CARTS = {
    "control: unknown state field 'ctlr'. Did you mean 'ctrl'": {
        "control": lambda task, data, state, action: {"ctlr": action}
    },
    "control: unknown state field 'sensordata'": {"control": lambda *args: {"sensordata": args[3]}},
    "control 'ctrl' must have shape (3, 1), got (3, 2)": {
        "control": lambda task, data, state, action: {"ctrl": action.repeat(1, 2)}
    },
    "control 'ctrl' contains NaN": {"control": lambda task, data, state, action: {"ctrl": action / 0.0}},
    "control must be a dict of tensors, got Tensor": {"control": lambda task, data, state, action: action},
    "reset, writes 'mocap_pos' must have shape (3, 1, 3), got (3, 3)": {
        "reset": lambda task, noise: reset(task, noise)._replace(writes={"mocap_pos": torch.zeros(3, 3)})
    },
    "observe raised KeyError: 'xpos'. The arrays it was given: [goal, mass]; [qpos, qvel]; [best]": {
        "observe": lambda task, data, state: data["xpos"]
    },
    "observe, the observation 'obs' is a view of data['qpos']; return a `.clone()`": {
        "observe": lambda task, data, state: data["qpos"][:, :1],
        "obs_dim": 1,
    },
    "step, state 'best' is a view of data['qvel']; return a `.clone()`": {
        "step": lambda *args: step(*args)._replace(state={"best": args[1]["qvel"][:, 0]})
    },
    "the simulation of every world fails in the first step": {
        "reset": lambda task, noise: Start(
            {"best": torch.zeros_like(task["goal"])}, {"qvel": torch.full_like(noise.normal, 1e9)}
        ),
        "control": lambda task, data, state, action: {"qvel": torch.full_like(action, 1e12)},
    },
}


@pytest.mark.parametrize("message", WRONG_CARTS)
def test_a_wrong_use_of_physics_fails_at_construction_and_is_named(message):
    with pytest.raises(SpecError) as error:
        BatchedEnv(replace(CART_SPEC, **WRONG_CARTS[message]), 3)
    assert f"cart: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        ({"configure": lambda task, defaults: {}}, "configure must return ['body_mass'] (model_fields), got []"),
        (
            {"configure": lambda task, defaults: {"body_mass": defaults["body_mass"]}},
            "configure 'body_mass' must have shape (4,), got (3,)",
        ),
        (
            {"configure": lambda task, defaults: {"body_mass": task["mass"]}},
            "configure 'body_mass' must have shape (4, 3), got (4,)",
        ),
        ({"configure": lambda task, defaults: {"body_mass": task["weight"]}}, "configure raised KeyError: 'weight'"),
    ],
)
def test_a_wrong_configure_fails_at_construction_and_is_named(physics, message):
    with pytest.raises(SpecError) as error:
        BatchedEnv(replace(CART_SPEC, physics=replace(CART_SPEC.physics, **physics)), 4)
    assert f"cart: {message}" in str(error.value)


def test_unknown_fields_of_physics_fail_at_construction_and_are_named():
    with pytest.raises(EngineError, match="qpoz"):
        BatchedEnv(replace(CART_SPEC, physics=replace(CART_SPEC.physics, data_fields=("qpoz",))), 2)
    with pytest.raises(EngineError, match="body_weight"):
        BatchedEnv(replace(CART_SPEC, physics=replace(CART_SPEC.physics, model_fields=("body_weight",))), 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": 0}, "horizon and obs_dim must be positive"),
        ({"obs_dim": 0}, "horizon and obs_dim must be positive"),
        ({"action_space": 3}, "action_space must be Continuous or Discrete, got 3"),
        ({"action_space": Discrete(0)}, "action_space must be Continuous or Discrete, got Discrete(num_actions=0)"),
        ({"control": lambda *args: {}}, "`physics` and `control` go together"),
        ({"physics": CART_SPEC.physics}, "`physics` and `control` go together"),
    ],
)
def test_a_wrong_record_is_refused(fields, message):
    with pytest.raises(SpecError) as error:
        replace(LEVER_SPEC, **fields)
    assert message in str(error.value)


def test_tasks_of_a_wrong_shape_or_with_nan_are_refused():
    env = BatchedEnv(LEVER_SPEC, 3)
    with pytest.raises(SpecError, match=r"tasks must have shape \(3, 1\), or fewer rows .*, got \(2, 1\)"):
        env.set_tasks(torch.zeros(2, 1))
    with pytest.raises(SpecError, match="tasks contain NaN"):
        env.set_tasks(torch.full((3, 1), float("nan")))


def test_randomness_outside_noise_fails_the_check():
    spec = replace(LEVER_SPEC, step=changed_outcome(reward=lambda args: torch.rand(len(args[3]))))
    with pytest.raises(SpecError, match="take random numbers from `noise` only"):
        check_task_distribution(spec)


def test_a_memory_outside_state_fails_the_check():
    remembered = {"count": 0}

    def forgetful_reset(task, noise):
        remembered["count"] += 1
        return lever_reset(task, noise)

    def leaky_step(task, data, state, action, noise):
        outcome = lever_step(task, data, state, action, noise)
        return outcome._replace(reward=outcome.reward + float(remembered["count"] > 5))

    def make():
        return replace(LEVER_SPEC, reset=forgetful_reset, step=leaky_step)

    with pytest.raises(SpecError, match=r"two environments|depends on the episode before"):
        check_task_distribution(make)


def test_worlds_that_read_each_other_fail_the_check():
    spec = replace(LEVER_SPEC, step=changed_outcome(reward=lambda args: args[0]["pay"] - args[0]["pay"].mean()))
    with pytest.raises(SpecError, match="only the tasks of other worlds"):
        check_task_distribution(spec)


def test_a_parameter_that_changes_nothing_fails_the_check():
    parameters = (*LEVER_SPEC.tasks.parameters, Parameter("colour", "1", Uniform(0.0, 1.0)))
    with pytest.raises(SpecError, match="parameter 'colour' changes neither observations nor rewards"):
        check_task_distribution(replace(LEVER_SPEC, tasks=TaskDistribution(parameters)))


def test_an_unread_physics_parameter_fails_the_check():
    unchanged = replace(CART_SPEC.physics, configure=lambda task, d: {"body_mass": d["body_mass"].repeat(16, 1)})
    with pytest.raises(SpecError, match="parameter 'mass' changes neither"):
        check_task_distribution(replace(CART_SPEC, physics=unchanged))


def test_a_nan_in_a_held_out_split_fails_the_check():
    def unsound(task, data, state, action, noise):
        outcome = step(task, data, state, action, noise)
        return outcome._replace(reward=torch.where(task["goal"] > 1.0, torch.nan, outcome.reward))

    with pytest.raises(SpecError, match=r"16 of 16 worlds diverge on split 'extrapolation'.*reward is NaN"):
        check_task_distribution(replace(CART_SPEC, step=unsound))


def test_diverging_worlds_fail_the_check():
    def explode(task, data, state, action):
        return {"ctrl": action, "qfrc_applied": torch.where(task["goal"] > 1.0, 1e20, 0.0).unsqueeze(1)}

    with pytest.raises(SpecError, match=r"16 of 16 worlds diverge on split 'extrapolation'.*the simulation fails"):
        check_task_distribution(replace(CART_SPEC, control=explode))


def test_overlapping_or_misplaced_fixed_splits_fail_the_check():
    speed = Parameter("speed", "m/s", Uniform(0.0, 1.0))
    shared = torch.linspace(0.1, 0.9, 9).unsqueeze(1)
    with pytest.raises(SpecError, match="splits 'train' and 'test' share tasks"):
        check_splits(TaskDistribution((speed,), {"train": shared, "test": shared[:2]}), "runner")
    with pytest.raises(SpecError, match="parameter 'speed' of split 'test' must lie in"):
        check_splits(TaskDistribution((speed,), {"test": shared + 0.5}), "runner")


def test_what_is_not_an_environment_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'reach-planar'"):
        check_task_distribution("reach-planer")
    with pytest.raises(SpecError, match="expected an EnvSpec, got int"):
        check_task_distribution(lambda: 3)
    with pytest.raises(SpecError, match="num_tasks must be at least 2"):
        check_task_distribution(LEVER_SPEC, num_tasks=1)
