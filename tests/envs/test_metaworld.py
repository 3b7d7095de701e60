"""Meta-World: official splits, the shim, worlds of worker processes from training to video, both success rates."""

import json
import pickle
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import envs
from envs.metaworld import CLASSES, ML10, ML45, shim
from envs.metaworld.benchmarks import OBS_DIM, class_name, class_of
from envs.metaworld.success import official_success, unbiased_success
from metarl.cli import main
from metarl.errors import ConfigError, MetarlError, SpecError, UnknownNameError
from metarl.worlds import ProcessSpec, make_worlds
from scripts.metaworld_success import main as judge

ROOT = Path(__file__).resolve().parents[2]
ONE_CLASS = [f"metaworld-ml1-{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def metaworld():
    """The package; tests that need it are skipped without it."""
    try:
        return shim.load()
    except SpecError as error:
        pytest.skip(str(error))


def goals_of(tasks):
    """The package's tasks as (class, goal) rows."""
    rows = []
    for task in tasks:
        goal = pickle.loads(task.data)["rand_vec"]
        rows.append([CLASSES.index(task.env_name.removesuffix("-v3")), *goal, *[0.0] * (6 - len(goal))])
    return torch.tensor(np.array(rows), dtype=torch.float32)


# Specifications and splits, which need no package


def test_all_benchmarks_are_listed_and_made_without_the_package():
    assert len(ONE_CLASS) == 50
    for name in ["metaworld-ml10", "metaworld-ml45", *ONE_CLASS]:
        assert name in envs.names()
    families = envs.families(envs.names())
    assert families["metaworld-ml1-*"] == list(CLASSES)
    assert families["metaworld-ml10"] == []


def test_splits_hold_fifty_goals_per_class_and_share_none():
    for name, split in (("metaworld-ml10", ML10), ("metaworld-ml45", ML45)):
        fixed = envs.make_spec(name).tasks.fixed
        assert fixed["train"].shape == (50 * len(split.train), 7)
        assert fixed["test"].shape == (250, 7)
        assert not set(split.train) & set(split.test)
        assert {class_of(task) for task in fixed["train"]} == set(split.train)
        assert {class_of(task) for task in fixed["validation"]} == set(split.train)
        assert [class_of(task) for task in fixed["test"][:5]] == list(split.test)
    fixed = envs.make_spec("metaworld-ml1-push").tasks.fixed
    everything = torch.cat([fixed[split] for split in ("train", "validation", "test")])
    assert len(everything.unique(dim=0)) == len(everything) == 120


@pytest.mark.parametrize("name", ["metaworld-ml10", "metaworld-ml45", "metaworld-ml1-reach"])
def test_every_task_is_in_the_declared_ranges(name):
    tasks = envs.make_spec(name).tasks
    unseen = "extrapolation" if "extrapolation" in tasks.splits() else "test"  # classes that are held out
    for split, declared in (("train", "train"), ("validation", "validation"), ("test", unseen)):
        for row in tasks.fixed[split]:
            assert torch.equal(tasks.pack({"task_class": row[0], "goal": row[1:]}, declared), row)


def test_bad_names_and_horizons_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'metaworld-ml1-reach'"):
        envs.make_spec("metaworld-ml1-reech")
    with pytest.raises(ConfigError, match="horizon must be 1 to 500"):
        envs.make_spec("metaworld-ml10", horizon=501)


# Success rates, on stubs whose truth is known


def test_the_official_rate_of_an_agent_that_solves_one_goal_in_four_is_one():
    steps = np.zeros((40, 3), int)
    steps[::4] = 50  # every fourth goal is always solved, after 50 steps
    assert unbiased_success(steps) == 0.25
    assert official_success(steps, 500, num_parallel=4) == 1.0


def test_the_official_rate_of_independent_successes_is_far_too_high():
    rng = np.random.default_rng(0)
    steps = np.where(rng.random((40_000, 3)) < 0.25, 50, 0)
    assert unbiased_success(steps) == pytest.approx(0.25, abs=0.01)
    # Successes before a goal's first failure fill the quota: of 4 together m with C(m+3, 3) .75^4 .25^m.
    assert official_success(steps, 500, num_parallel=4) == pytest.approx(0.407, abs=0.01)
    # One environment per class has one quota: nothing is left out.
    assert official_success(steps, 500, num_parallel=1) == pytest.approx(0.25, abs=0.01)


def test_successes_as_late_as_the_horizon_are_counted_in_the_order_of_goals():
    assert official_success(np.array([[0, 0, 0], [500, 500, 500]]), 500, num_parallel=2) == pytest.approx(1 / 3)
    assert official_success(np.array([[500, 500, 500], [0, 0, 0]]), 500, num_parallel=2) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="counts up to 3"):
        official_success(np.zeros((4, 2), int), 500, num_parallel=4)


class ScriptedEnvs:
    """A vector environment for the package's evaluator, whose episodes succeed when they are told to."""

    def __init__(self, steps, horizon):
        self.steps, self.horizon, self.num_envs = steps, horizon, len(steps)

    def get_attr(self, name):
        return [False if name == "terminate_on_success" else "SawyerReachEnvV3"] * self.num_envs

    def call(self, name, on):
        pass

    def reset(self):
        self.episode, self.age = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
        return np.zeros((self.num_envs, OBS_DIM)), {}

    def step(self, action):
        self.age += 1
        due = self.steps[np.arange(self.num_envs), np.minimum(self.episode, self.steps.shape[1] - 1)]
        success = self.age == due
        over = success | (self.age == self.horizon)
        infos = {"final_info": {"episode": {"r": np.zeros(self.num_envs)}, "success": success}}
        self.episode, self.age = self.episode + over, np.where(over, 0, self.age)
        return np.zeros((self.num_envs, OBS_DIM)), None, success, over & ~success, infos


class Idle:
    def eval_action(self, obs):
        return obs[:, :4]

    def reset(self, mask):
        pass


def test_the_official_rate_is_that_of_the_packages_evaluator(metaworld):
    from metaworld.evaluation import evaluation

    rng = np.random.default_rng(1)
    for _ in range(30):
        steps = np.where(rng.random((4, 3)) < 0.4, rng.integers(1, 21, (4, 3)), 0)
        rate = evaluation(Idle(), ScriptedEnvs(steps, 20), num_episodes=3)[0]
        assert official_success(steps, 20, num_parallel=4) == pytest.approx(rate), steps


# The package on this MuJoCo


@pytest.mark.slow
def test_the_classes_and_goals_are_those_of_the_package(metaworld):
    assert tuple(metaworld.env_dict.ALL_V3_ENVIRONMENTS) == tuple(map(class_name, CLASSES))
    for split, official in ((ML10, metaworld.env_dict.ML10_V3), (ML45, metaworld.env_dict.ML45_V3)):
        for part in ("train", "test"):
            assert tuple(official[part]) == tuple(map(class_name, getattr(split, part)))
    one = metaworld.ML1("push-v3", seed=0)
    fixed = envs.make_spec("metaworld-ml1-push").tasks.fixed
    assert torch.equal(goals_of(one.train_tasks), fixed["train"])
    assert torch.equal(goals_of(one.test_tasks), fixed["test"])
    test = goals_of(metaworld.ML10(seed=0).test_tasks)  # class by class
    assert torch.equal(
        test.unflatten(0, (5, 50)).transpose(0, 1).flatten(0, 1), envs.make_spec("metaworld-ml10").tasks.fixed["test"]
    )


@pytest.mark.parametrize("name", ["reach", "push", "window-close", "lever-pull", "disassemble"])
def test_a_world_does_what_the_package_does(metaworld, name):
    """Bit for bit over two tasks and two episodes each, also in an environment that is used again."""
    official = metaworld.env_dict.ALL_V3_ENVIRONMENTS[class_name(name)]()
    make = envs.make_spec(f"metaworld-ml1-{name}").factory
    actions = np.random.default_rng(0).uniform(-1, 1, (25, 4)).astype(np.float32)
    for task in metaworld.ML1(class_name(name), seed=0).train_tasks[:2]:
        official.set_task(task)
        goal = official._last_rand_vec
        world = make(float(CLASSES.index(name)), np.pad(goal, (0, 6 - len(goal))))
        for _ in range(2):
            here, there = world.reset()[0], official.reset()[0]
            assert np.array_equal(here, there)
            for action in actions:
                here, there = world.step(action), official.step(action)
                assert np.array_equal(here[0], there[0])
                assert here[1] == there[1]
                assert not here[0][36:].any()
        world.close()
    assert len(make._idle[class_name(name)]) == 1


def test_a_grasp_is_told_as_by_the_package(metaworld):
    spec = envs.make_spec("metaworld-ml1-pick-place")
    task = spec.tasks.split("test", 1)[0]
    world = spec.factory(float(task[0]), task[1:].numpy())
    world.reset()
    told = set()
    for _ in range(120):
        world.step(np.clip(world.expert_action(), -1, 1))
        data, puck = world.data, world._env._get_id_main_object()
        pads = {data.geom(name).id: 0.0 for name in ("leftpad_geom", "rightpad_geom")}
        for contact in data.contact:  # as the package has it
            for pad in pads:
                if {pad, puck} <= {contact.geom1, contact.geom2}:
                    pads[pad] += data.efc_force[contact.efc_address]
        told.add(shim.touching_object(world._env, puck))
        assert shim.touching_object(world._env, puck) == all(force > 0 for force in pads.values())
    assert told == {True, False}


def test_a_goal_on_which_the_class_would_draw_for_ever_is_refused(metaworld):
    make = envs.make_spec("metaworld-ml1-push").factory
    with pytest.raises(SpecError, match="too close"):
        make(float(CLASSES.index("push")), np.array([0.0, 0.6, 0.02, 0.0, 0.65, 0.02])).reset()


@pytest.mark.parametrize(
    "name", ["reach", "door-open", "drawer-close", "button-press-topdown", "window-open", "push", "faucet-open"]
)
def test_the_scripted_policies_reach_their_usual_success(metaworld, name):
    spec = envs.make_spec(f"metaworld-ml1-{name}")
    solved = 0
    for task in spec.tasks.split("test", 5):
        world = spec.factory(float(task[0]), task[1:].numpy())
        world.reset()
        solved += any(world.step(np.clip(world.expert_action(), -1, 1))[4]["success"] for _ in range(300))
        world.close()
    assert solved >= 4


def test_unknown_versions_and_a_missing_package_are_refused_in_one_line(monkeypatch):
    def missing(name):
        raise shim.PackageNotFoundError(name)

    for version, message in (
        (lambda name: "3.2.0", "needs metaworld 3.1.1, not 3.2.0"),
        (missing, "needs the package"),
    ):
        monkeypatch.setattr(shim, "version", version)
        with pytest.raises(SpecError, match=message) as error:
            shim.load.__wrapped__()
        assert shim.INSTALL in str(error.value)
        assert "\n" not in str(error.value)


def test_the_makefile_installs_the_version_that_the_shim_knows():
    assert shim.INSTALL.removeprefix("pip ").replace("install", "install --quiet") in (ROOT / "Makefile").read_text()


# Worlds in worker processes


@pytest.fixture(scope="module")
def worlds(metaworld):
    with make_worlds(envs.make_spec("metaworld-ml10", horizon=10), 6) as made:
        yield made


def test_worlds_keep_their_task_over_episodes_and_hide_the_goal(worlds):
    assert isinstance(worlds.spec, ProcessSpec)
    worlds.set_tasks(worlds.spec.tasks.split("test", 6))
    first = worlds.reset()
    for _ in range(10):
        step = worlds.step(torch.zeros(6, 4))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert torch.equal(worlds.reset(), first)
    assert first.shape == (6, OBS_DIM)
    assert not first[:, 36:].any()
    assert worlds.has_success


def test_worlds_start_one_by_one_on_new_tasks(worlds):
    tasks = worlds.spec.tasks.split("train", 6)
    worlds.set_tasks(tasks)
    worlds.reset()
    before = worlds.step(torch.ones(6, 4)).obs
    mask = torch.tensor([True, False, False, False, False, True])
    new = worlds.spec.tasks.split("train", 20)[14:]
    after = worlds.reset_worlds(mask, new)
    assert torch.equal(after[1:5], before[1:5])
    assert torch.equal(worlds.task, torch.where(mask[:, None], new, tasks))
    worlds.set_tasks(new)
    assert torch.equal(worlds.reset()[mask], after[mask])


def test_the_expert_sees_the_goal_and_models_show_it(worlds):
    worlds.set_tasks(worlds.spec.tasks.split("train", 6))
    worlds.reset()
    assert worlds.expert_action().shape == (6, 4)
    pose = worlds.pose()
    models = worlds.models([1, 5])
    assert [model.nq for model in models] == [16, 10]  # reach, button-press-topdown
    assert pose["qpos"].shape == (6, 16)
    assert not pose["qpos"][5, 10:].any()
    assert all("video" in [model.camera(i).name for i in range(model.ncam)] for model in models)
    assert pose["mocap_pos"].shape == (6, 1, 3)


def run_cli(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


def test_a_run_trains_evaluates_resumes_and_records(metaworld, tmp_path, capsys):
    folder = str(tmp_path / "run")
    start = ["train", "rl2", "--env", "metaworld-ml10", "--out", folder]
    size = ["--num-worlds=4", "--num-minibatches=2", "--episodes-per-trial=2", "--hidden-dim=8"]
    run_cli(*start, *size, "--env-options", "horizon=10", "--validate-every=0", "--total-steps=240")
    run_cli(*start, "--resume")
    run_cli("evaluate", folder, "--num-tasks=5")
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [CLASSES[round(task[0])] for task in record["tasks"]] == list(ML10.test)
    assert set(record["references"]) == {"expert", "random"}
    run_cli("record", folder, "--num-tasks=1", "--out", str(tmp_path / "video.mp4"))
    assert (tmp_path / "video.mp4").stat().st_size > 1000
    table = judge([folder, "--num-goals=1", "--expert", "--adaptation-episodes=0"])
    assert set(table) == {*ML10.test, "mean"}
    assert "unbiased" in capsys.readouterr().out


def test_gymnasium_makes_it_by_its_id(metaworld):
    env = gymnasium.make("metarl:metarl/MetaworldMl1Reach-v0", horizon=5)
    obs, info = env.reset(seed=0)
    assert obs.shape == (OBS_DIM,)
    assert info["task"]["task_class"] == CLASSES.index("reach")
    assert [env.step(env.action_space.sample())[3] for _ in range(5)] == [False] * 4 + [True]
    env.close()


def test_without_the_package_a_run_ends_in_one_line(metaworld, monkeypatch):
    spec = envs.make_spec("metaworld-ml1-reach")
    broken = ProcessSpec(
        spec.name, spec.tasks, spec.obs_dim, spec.action_space, 10, _NeedsPackage(), start_method=spec.start_method
    )
    with pytest.raises(MetarlError, match="pip install --no-deps metaworld"):
        make_worlds(broken, 2)


class _NeedsPackage:
    """What `MakeEnv` does in a worker that lacks the package."""

    def __call__(self, **task):
        raise SpecError(f"Meta-World needs the package metaworld: {shim.INSTALL}")
