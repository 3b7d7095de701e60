"""What holds for every environment."""

from dataclasses import replace
from functools import cache
from importlib import import_module

import mujoco
import pytest
import torch

import envs
from metarl.check import check_splits
from metarl.env import BatchedEnv, Noise
from metarl.tasks import Choice
from metarl.types import Discrete

NUM_WORLDS = 6
NAMES = [name for name in envs.names() if name in envs.ENVIRONMENTS and "envs.metaworld" not in envs.ENVIRONMENTS[name]]
"""All but those of worker processes, which have no functions of tensors; tests/envs/test_metaworld.py has them."""


@pytest.fixture(params=NAMES)
def name(request):
    module = envs.ENVIRONMENTS[request.param].split(":")[0]
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        pytest.skip(f"{module} does not exist yet")
    return request.param


@cache
def spec_of(name):
    return envs.make_spec(name)


def random_actions(spec, num_steps, num_worlds=NUM_WORLDS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if isinstance(spec.action_space, Discrete):
        return torch.randint(spec.action_space.num_actions, (num_steps, num_worlds), generator=generator)
    return 2 * torch.rand(num_steps, num_worlds, spec.action_space.dim, generator=generator) - 1


def run(env, actions):
    """Observations (T + 1, N, O) and rewards (T, N) of one episode."""
    observations, rewards = [env.reset()], []
    for action in actions:
        step = env.step(action)
        observations.append(step.obs)
        rewards.append(step.reward)
    return torch.stack(observations), torch.stack(rewards)


def short(spec):
    return random_actions(spec, min(spec.horizon, 25))


def expert_actions(env, tasks):
    """What the scripted expert does in an episode: a sparse reward is not found at random."""
    env.set_tasks(tasks)
    env.reset()
    actions = []
    for _ in range(min(env.spec.horizon, 60)):
        actions.append(env.expert_action())
        env.step(actions[-1])
    return torch.stack(actions)


def test_shapes_dtypes_and_ranges(name):
    spec = spec_of(name)
    env = BatchedEnv(spec, NUM_WORLDS)
    assert spec.name == name and spec.description
    obs = env.reset()
    assert obs.shape == (NUM_WORLDS, spec.obs_dim) and obs.dtype == torch.float32
    assert env.task.shape == (NUM_WORLDS, spec.tasks.dim)
    for action in short(spec):
        step = env.step(action)
        assert step.obs.shape == (NUM_WORLDS, spec.obs_dim) and step.obs.dtype == torch.float32
        assert step.reward.shape == (NUM_WORLDS,) and step.reward.dtype == torch.float32
        for flag in (step.terminated, step.truncated, step.success, step.failed, step.valid):
            assert flag.shape == (NUM_WORLDS,) and flag.dtype == torch.bool
        assert bool(torch.isfinite(step.obs).all()) and bool(torch.isfinite(step.reward).all())
        assert not bool((step.terminated & step.truncated).any())


def test_signals_are_finite_new_tensors_right_after_the_reset_and_after_every_step(name):
    spec = spec_of(name)
    env = BatchedEnv(spec, NUM_WORLDS)
    num_signals = 0 if spec.signals is None else len(spec.signals.names)
    env.reset()
    seen = []
    for action in [None, *short(spec)]:
        step = None if action is None else env.step(action)
        signals, feedback = env.signals()
        assert signals.shape == (NUM_WORLDS, num_signals) and signals.dtype == torch.float32
        assert bool(torch.isfinite(signals).all()) and bool((signals.abs() < 100).all())
        assert (feedback is None) == (spec.signals is None or spec.signals.feedback is None)
        if feedback is not None:
            assert feedback.shape == (NUM_WORLDS,) and feedback.dtype == torch.float32
        if feedback is not None and step is not None:
            assert bool(torch.isfinite(feedback).all())
        seen.append((signals, signals.clone()))
    assert all(torch.equal(signals, kept) for signals, kept in seen)
    if num_signals:
        assert bool((torch.stack([kept for _, kept in seen]).flatten(0, 1).std(0) > 0).all()), spec.signals.names


def test_an_observation_does_not_change_when_the_environment_goes_on(name):
    spec = spec_of(name)
    env = BatchedEnv(spec, NUM_WORLDS)
    first = env.reset()
    kept = first.clone()
    env.step(random_actions(spec, 1)[0])
    assert torch.equal(first, kept)


def test_the_same_seed_gives_the_same_episodes_and_another_seed_does_not(name):
    spec = spec_of(name)
    actions = short(spec)
    tasks = spec.tasks.split("test", NUM_WORLDS)
    runs = []
    for seed in (3, 3, 4):
        env = BatchedEnv(spec, NUM_WORLDS, seed=seed)
        env.set_tasks(tasks)
        first, second = run(env, actions), run(env, actions)
        runs.append(torch.cat([first[0].flatten(), first[1].flatten(), second[0].flatten(), second[1].flatten()]))
    assert torch.equal(runs[0], runs[1])
    if any(spec.reset_noise + spec.step_noise):
        assert not torch.equal(runs[0], runs[2])


def test_a_world_does_not_depend_on_its_neighbours_tasks(name):
    spec = spec_of(name)
    actions = short(spec)
    tasks = spec.tasks.split("test", NUM_WORLDS)
    mixed = torch.cat([tasks[:2], spec.tasks.split("validation", NUM_WORLDS)[2:]])
    outcomes = []
    for parameters in (tasks, mixed):
        env = BatchedEnv(spec, NUM_WORLDS, seed=1)
        env.set_tasks(parameters)
        outcomes.append(run(env, actions))
    assert torch.equal(outcomes[0][0][:, :2], outcomes[1][0][:, :2])
    assert torch.equal(outcomes[0][1][:, :2], outcomes[1][1][:, :2])


def test_a_task_set_again_after_others_does_the_same(name):
    spec = spec_of(name)
    actions = short(spec)
    tasks = spec.tasks.split("test", NUM_WORLDS)
    env = BatchedEnv(spec, NUM_WORLDS)
    outcomes = []
    for parameters in (tasks, tasks.flip(0), tasks):
        env.generator.manual_seed(0)
        env.set_tasks(parameters)
        outcomes.append(run(env, actions))
    assert torch.equal(outcomes[0][0], outcomes[2][0]) and torch.equal(outcomes[0][1], outcomes[2][1])


def test_the_functions_are_traced_whole(name):
    spec = spec_of(name)
    env = BatchedEnv(spec, NUM_WORLDS)
    env.reset()
    task, data, state = env._task, env._data, env._state
    action = random_actions(spec, 1)[0]

    def noise(counts):
        return Noise(torch.rand(NUM_WORLDS, counts[0]), torch.randn(NUM_WORLDS, counts[1]))

    calls = [
        (spec.reset, (task, noise(spec.reset_noise))),
        (spec.observe, (task, data, state)),
        (spec.step, (task, data, state, action, noise(spec.step_noise))),
    ]
    if spec.signals is not None:
        calls.append((spec.signals.compute, (task, data, state)))
    if spec.signals is not None and spec.signals.feedback is not None:
        calls.append((spec.signals.feedback, (task, data, state)))
    if spec.control is not None:
        calls.append((spec.control, (task, data, state, action)))
    for function, arguments in calls:
        torch._dynamo.reset()
        traced = torch.compile(function, fullgraph=True, backend="eager")(*arguments)
        torch.testing.assert_close(traced, function(*arguments))


def test_an_ended_episode_pays_nothing_until_the_reset(name):
    spec = spec_of(name)

    def step(task, data, state, action, noise):
        outcome = spec.step(task, data, state, action, noise)
        first_world = torch.arange(len(outcome.reward)) == 0
        return outcome._replace(terminated=first_world, reward=torch.ones_like(outcome.reward))

    env = BatchedEnv(replace(spec, step=step, horizon=4), 2)
    action = random_actions(spec, 1, 2)[0]
    for _ in range(2):
        env.reset()
        steps = [env.step(action) for _ in range(4)]
        assert [s.reward.tolist() for s in steps] == [[1.0, 1.0]] + [[0.0, 1.0]] * 3
        assert [bool(s.terminated[0]) for s in steps] == [True, False, False, False]
        assert [bool(s.valid[0]) for s in steps] == [True, False, False, False]
        assert not any(bool(s.truncated[0]) for s in steps)
        assert [bool(s.truncated[1]) for s in steps] == [False, False, False, True]


def test_splits_are_disjoint_and_inside_their_ranges(name):
    check_splits(spec_of(name).tasks, name, num_tasks=150)


def test_every_parameter_changes_something(name):
    spec = spec_of(name)
    num_worlds = 16
    env = BatchedEnv(spec, num_worlds)
    actions = random_actions(spec, min(spec.horizon, 60), num_worlds)
    tasks, others = (spec.tasks.split(split, num_worlds) for split in ("test", "validation"))

    def observe(parameters, actions):
        env.generator.manual_seed(0)
        env.set_tasks(parameters)
        episodes = [run(env, actions) for _ in range(1 if spec.horizon > 1 else 40)]
        return torch.cat([torch.cat([o.flatten(), r.flatten()]) for o, r in episodes])

    # Most parameters show within a few random steps; the longer and the scripted ones are taken for the others only.
    sequences = [actions[:10], actions] if spec.expert is None else [actions[:10], actions, expert_actions(env, tasks)]
    before, start = [observe(tasks, actions) for actions in sequences], 0
    for parameter in spec.tasks.parameters:
        changed = tasks.clone()
        changed[:, start : start + parameter.size] = others[:, start : start + parameter.size]
        if isinstance(parameter.distribution, Choice):
            held_out = parameter.distribution.held_out
            changed[:, start] = held_out[0] if held_out else tasks[:, start].roll(1)
        pairs = zip(before, sequences, strict=True)
        assert any(not torch.equal(then, observe(changed, actions)) for then, actions in pairs), parameter.name
        start += parameter.size


FIXTURES = ("door-open", "door-close", "drawer-open", "drawer-close", "button", "lever", "window", "families")
ROADS = ("track", "track-wheels", "surface-shift", "payload", "traffic", "park")
SHOWING = (*FIXTURES, *ROADS, "reach-robots", "reach-either", "grasp")
"""Environments that show a part of the task, such as the road ahead; their own tests look at the hidden rest."""
HIDDEN = [name for name in NAMES if name not in SHOWING]


@pytest.mark.parametrize("name", HIDDEN)
def test_the_first_observation_does_not_give_the_task_away(name):
    spec = spec_of(name)
    env = BatchedEnv(spec, NUM_WORLDS)
    first = []
    for split in ("train", "test"):
        env.generator.manual_seed(0)
        env.set_tasks(spec.tasks.split(split, NUM_WORLDS))
        first.append(env.reset())
    assert not torch.equal(spec.tasks.split("train", NUM_WORLDS), spec.tasks.split("test", NUM_WORLDS))
    torch.testing.assert_close(*first, atol=1e-6, rtol=0.0)


UNCLIPPED = ("humanoid-dir", "humanoid-dir-promp")
"""Environments that see contact forces (N) as they are."""


def test_random_actions_for_200_steps_stay_sound_on_all_splits(name):
    spec = spec_of(name)
    tasks = torch.cat([spec.tasks.split(split, 16) for split in spec.tasks.splits()])
    env = BatchedEnv(spec, len(tasks))
    env.set_tasks(tasks)
    steps = []
    for episode in range(max(1, 200 // spec.horizon)):
        env.reset()
        actions = random_actions(spec, min(200, spec.horizon), len(tasks), seed=episode)
        # Held for five steps, a random action reaches the ends of what the body can do.
        steps += [env.step(actions[t - t % 5]) for t in range(len(actions))]
    assert len(steps) >= min(200, spec.horizon)
    assert not bool(torch.stack([s.failed for s in steps]).any())
    largest = torch.stack([s.obs for s in steps]).abs().max()
    assert float(largest) < (1e5 if name in UNCLIPPED else 100.0), float(largest)


def test_bodies_have_a_camera_for_videos_and_radians(name):
    physics = spec_of(name).physics
    if physics is None:
        pytest.skip(f"{name} has no body")
    task = {k: v[0] for k, v in BatchedEnv(spec_of(name), 1)._task.items()}
    model = physics.model if physics.scene is None else physics.scene(task)
    assert model.camera(physics.camera).id >= 0
    assert (model.nq, model.nv) == (physics.model.nq, physics.model.nv)
    limited = physics.model.jnt_limited.astype(bool) & (physics.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE)
    low, high = physics.model.jnt_range[limited].T
    # A range that was meant in radians but read in degrees is shorter than a tenth of a radian.
    assert ((high - low) > 0.1).all()
