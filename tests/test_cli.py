"""The command line: train, evaluate, record; mistakes get one clear line, exit code 2, and nothing is lost."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl.checkpoint import newest_checkpoint
from metarl.cli import main
from metarl.learners import preset
from metarl.options import TrainOptions, parse
from metarl.run import read_config
from metarl.run_folder import open_run
from tests.slow import slow_but


def run(*arguments):
    """Run a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def in_a_process(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "metarl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


def train(out, *more, env="reach-planar", algorithm="rl2"):
    sizes = ["--total-steps", 480, "--num-worlds", 8, "--hidden-dim", 8, "--episodes-per-trial", 2]
    short = ["--env-options", "horizon=5"] if env == "reach-planar" else []
    return run("train", algorithm, "--env", env, "--out", out, *sizes, *short, "--validate-every", 0, *more)


def contents(folder):
    """The digest of every file of a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs that nothing may change: on an arm, by two algorithms, and on a bandit."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(folder / "arm", "--checkpoint-interval-s", 0) == 0
    assert train(folder / "oracle", algorithm="oracle") == 0
    assert train(folder / "bandit", env="bandit") == 0
    before = contents(folder)
    yield folder
    assert contents(folder) == before


@pytest.fixture
def arm(trained, tmp_path):
    """A copy of a run on the arm, to be changed."""
    return shutil.copytree(trained / "arm", tmp_path / "arm")


@pytest.fixture
def refused(capsys):
    """Run a command that must fail with exit code 2; returns its one line."""

    def refuse(*arguments):
        capsys.readouterr()
        assert run(*arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and printed.err.endswith("\n"), printed.err
        assert printed.err.startswith(f"metarl {arguments[0]}: ") and printed.out == ""
        return printed.err

    return refuse


def test_train_evaluate_and_record_in_three_commands(trained, tmp_path, capsys):
    evaluation, picture, video = tmp_path / "new" / "e.json", tmp_path / "other" / "p.png", tmp_path / "third" / "v.mp4"
    arm = trained / "arm"
    assert run("evaluate", arm, "--num-tasks", 4, "--json", evaluation, "--plot", picture) == 0
    printed = capsys.readouterr().out
    assert "reach-planar, 4 tasks of split test" in printed and f"wrote {evaluation} and {picture}" in printed
    values = json.loads(evaluation.read_text())
    assert (values["env"], values["algorithm"], values["num_episodes"]) == ("reach-planar", "rl2", 2)
    assert [len(row) for row in values["returns"]] == [2] * 4
    assert list(values["references"]) == ["random"]
    assert picture.stat().st_size > 10_000 and picture.with_suffix(".svg").exists()
    assert run("record", arm, "--num-tasks", 1, "--episodes", 1, "--out", video) == 0
    assert video.stat().st_size > 1000 and f"wrote {video}" in capsys.readouterr().out
    assert [p.name for p in video.parent.iterdir()] == ["v.mp4"]


@pytest.fixture(scope="module")
def gradient(tmp_path_factory):
    """A run of MAML on the arm of `trained`, that nothing may change."""
    folder = tmp_path_factory.mktemp("gradient") / "maml"
    sizes = ["--total-steps", 480, "--meta-batch-size", 3, "--episodes-per-task", 4, "--hidden-dims", 8]
    short = ["--env-options", "horizon=5", "--validate-every", 2]
    assert run("train", "maml-trpo", "--env", "reach-planar", "--out", folder, *sizes, *short) == 0
    before = contents(folder)
    yield folder
    assert contents(folder) == before


GRADIENT_LEARNERS = ("maml-trpo", "fomaml", "anil", "meta-sgd", "cavia", "e-maml", "promp", "maml-ppo", "reptile")


@pytest.mark.parametrize("env", ["point-navigation", "tabular-mdp"])
@pytest.mark.parametrize("algorithm", GRADIENT_LEARNERS)
def test_every_gradient_learner_trains_goes_on_and_is_evaluated(tmp_path, algorithm, env, capsys):
    out = tmp_path / "run"
    sizes = ["--meta-batch-size", 2, "--episodes-per-task", 3, "--hidden-dims", 8, "--validate-every", 1]
    steps = 2 * 2 * 3 * (100 if env == "point-navigation" else 10)
    command = ["train", algorithm, "--env", env, "--out", out]
    assert run(*command, *sizes, "--total-steps", 2 * steps) == 0
    assert run(*command, "--resume") == 0
    assert run("evaluate", out, "--num-tasks", 3, "--episodes", 3) == 0
    assert "after 2" in capsys.readouterr().out
    values = json.loads((out / "evaluation.json").read_text())
    assert len(values["returns"]) == 3 and all(len(row) == 3 for row in values["returns"])


@pytest.mark.parametrize("env", slow_but(["point-navigation", "bandit", "reach-planar"], "reach-planar"))
@pytest.mark.parametrize("encoder_loss", ["dynamics", "focal", "prototypical", "rl"])
def test_context_rl_trains_goes_on_and_is_evaluated(tmp_path, encoder_loss, env):
    out, command = tmp_path / "run", ["train", "context-rl", "--env", env, "--out", tmp_path / "run"]
    sizes = ["--num-worlds", 8, "--hidden-dim", 8, "--episodes-per-trial", 2, "--validate-every", 1]
    sizes += [] if env == "bandit" else ["--env-options", "horizon=5"]
    kind = ["--pooling", "gaussian", "--samples-posterior"] if env == "bandit" else ["--window", 3]
    assert run(*command, *sizes, *kind, "--encoder-loss", encoder_loss, "--total-steps", 480) == 0
    assert run(*command, "--resume") == 0
    assert run("evaluate", out, "--num-tasks", 3, "--prototypes") == 0
    values = json.loads((out / "evaluation.json").read_text())
    assert "prototypes" in values["references"]
    if env == "reach-planar":
        video = tmp_path / "v.mp4"
        assert run("record", out, "--num-tasks", 1, "--episodes", 1, "--out", video) == 0
        assert video.stat().st_size > 1000


def test_prototypes_go_with_context_rl_alone(trained, refused):
    assert "--prototypes goes with runs of context-rl" in refused("evaluate", trained / "arm", "--prototypes")


LOSSES = ("reward", "potential", "advantage", "drift", "lpg", "ml3")
HAND_DESIGNED = ("feedback", "dense", "dense-bonus", "hand-potential")


@pytest.mark.parametrize("loss", LOSSES + HAND_DESIGNED)
def test_every_loss_is_trained_goes_on_and_is_evaluated(tmp_path, loss, capsys):
    out = tmp_path / "run"
    sizes = ["--meta-batch-size", 2, "--episodes-per-task", 3, "--num-inner-steps", 2, "--policy-dims", 8]
    sizes += ["--env-options", "horizon=5", "--validate-every", 1, "--inner-epochs", 2 if loss == "drift" else 1]
    command = ["train", "learned-loss", "--env", "reach-robots", "--out", out]
    assert run(*command, *sizes, "--loss", loss, "--total-steps", 2 * 2 * 3 * 5 * 3) == 0
    assert run(*command, "--resume") == 0
    assert run("evaluate", out, "--split", "robots", "--num-tasks", 3, "--episodes", 4) == 0
    assert "after 3" in capsys.readouterr().out


def test_a_gradient_learner_is_evaluated_over_its_inner_steps(gradient, tmp_path, capsys):
    files = ["--json", tmp_path / "e.json", "--plot", tmp_path / "p.png"]
    assert run("evaluate", gradient, "--num-tasks", 3, "--episodes", 4, "--later-step-scale", 0.25, *files) == 0
    printed = capsys.readouterr().out
    assert "note: trials of 4 episodes; " in printed and "before" in printed and "after 3" in printed
    values = json.loads((tmp_path / "e.json").read_text())
    assert (values["num_episodes"], values["episodes_per_task"], values["deterministic"]) == (4, 4, False)
    assert values["env_steps_spent"] == [0, 20, 40, 60]


def test_a_video_of_a_gradient_learner_shows_it_before_and_after_its_inner_steps(gradient, tmp_path, monkeypatch):
    from metarl import record

    shown = []
    monkeypatch.setattr(record, "write_clips", lambda clips, path, **options: shown.append((clips, options)))
    with pytest.raises(AttributeError):  # nothing was written that could be reported
        main(["record", str(gradient), "--num-tasks", "2", "--out", str(tmp_path / "v.mp4")])
    ((clips, options),) = shown
    stages = ["before adaptation", "after 1 inner step", "after 3 inner steps"]
    assert [clip.heading[0] for clip in clips] == stages * 2 and options["columns"] == 3
    assert all(clip.qpos.shape[:2] == (1, 6) for clip in clips)
    assert clips[0].heading[1:] == clips[2].heading[1:] != clips[3].heading[1:]


def test_learners_of_all_kinds_are_compared_by_what_they_spend(trained, gradient, tmp_path, capsys):
    out = tmp_path / "new" / "c.png"
    options = ["--num-tasks", 2, "--scratch-steps", 2100, "--scratch-tasks", 2, "--out", out]
    assert run("compare", trained / "arm", trained / "oracle", gradient, *options) == 0
    assert "after 1" in capsys.readouterr().out
    values = json.loads(out.with_suffix(".json").read_text())
    assert list(values) == ["rl2", "oracle", "maml-trpo", "from scratch"]
    assert values["rl2"]["env_steps_spent"] == [0, 5] and values["maml-trpo"]["env_steps_spent"] == [0, 20]
    assert values["from scratch"]["env_steps_spent"][0] == 0 and len(values["from scratch"]["returns"]) == 2
    assert out.stat().st_size > 10_000 and out.with_suffix(".svg").exists()


def test_ppo_takes_a_loss_and_one_task(tmp_path, refused):
    assert train(tmp_path / "run", "--loss", "dpo", "--num-train-tasks", 1, algorithm="ppo") == 0
    assert run("train", "ppo", "--env", "reach-planar", "--out", tmp_path / "run", "--resume") == 0
    config = read_config(open_run(tmp_path / "run").config, tmp_path / "run")
    assert (config.settings.loss, config.settings.memory, config.num_train_tasks) == ("dpo", False, 1)
    line = refused("train", "ppo", "--env", "bandit", "--loss", "dop", "--out", tmp_path / "x")
    assert "Did you mean 'dpo'? Available: clip, dpo, formula:FILE, learned:RUN." in line
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("switch", "value"), [("--bootstrap-at-end", True), ("--no-bootstrap-at-end", False)])
@pytest.mark.parametrize("env", ["bandit", "lever"])  # off and on in their presets
def test_a_switch_can_be_named_either_way_whatever_the_preset_says(switch, value, env):
    default = TrainOptions(algorithm="rl2", env=env, settings=preset("rl2", env, "default"))
    assert parse(TrainOptions, "train", ["rl2", "--env", env, switch], default).settings.bootstrap_at_end is value


def test_what_a_comparison_cannot_do_is_one_line(trained, gradient, tmp_path, refused):
    assert "they cannot be compared" in refused("compare", gradient, trained / "bandit", "--out", tmp_path / "c.png")
    assert "name the runs to compare" in refused("compare", "--out", tmp_path / "c.png")
    assert "got -1 and 4" in refused("compare", gradient, "--scratch-steps", -1, "--out", tmp_path / "c.png")
    line = refused("evaluate", trained / "arm", "--later-step-scale", 0.5, "--json", tmp_path / "e.json")
    assert "rl2 has none" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--episodes-per-task", 0], "episodes_per_task must be at least 1, got 0"),
        (["--meta-batch-size", "many"], "--meta-batch-size must be a whole number, got 'many'"),
        (["--adapts", "heads"], "unknown adapts 'heads'"),
        (["--memory"], "unrecognized option --memory"),
        (["--num-inner-steps", 0], "num_inner_steps must be at least 1, got 0"),
    ],
)
def test_wrong_settings_of_a_gradient_learner_are_one_line(tmp_path, refused, options, said):
    assert said in refused("train", "maml-trpo", "--env", "bandit", "--out", tmp_path / "x", *options)
    assert not (tmp_path / "x").exists()


def test_an_evaluation_goes_to_the_run_folder_unless_told_otherwise(arm):
    before = contents(arm)
    assert run("evaluate", arm, "--num-tasks", 2) == 0
    after = contents(arm)
    assert set(after) - set(before) == {"evaluation.json", "evaluation.png", "evaluation.svg"}
    assert before.items() <= after.items()


def test_the_same_command_gives_the_same_evaluation(trained, tmp_path):
    for name in ("one", "two"):
        options = ["--stochastic", "--num-tasks", 3, "--seed", 4, "--split", "extrapolation"]
        assert run("evaluate", trained / "arm", *options, "--json", tmp_path / name, "--plot", tmp_path / name) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_single_checkpoint_can_be_evaluated(trained, tmp_path, monkeypatch):
    checkpoints = trained / "arm" / "checkpoints"
    files = ["--json", tmp_path / "e.json", "--plot", tmp_path / "p.png"]
    monkeypatch.chdir(checkpoints)
    first = min(os.listdir(checkpoints))
    assert run("evaluate", first, "--num-tasks", 2, *files) == 0


def test_runs_on_the_same_environment_are_compared_under_names_of_their_own(trained, arm, tmp_path):
    out = tmp_path / "e.json"
    files = ["--json", out, "--plot", tmp_path / "p.png"]
    others = [trained / "oracle", arm, trained / "arm"]
    assert run("evaluate", trained / "arm", "--num-tasks", 2, *files, "--compare", *others) == 0
    references = json.loads(out.read_text())["references"]
    assert list(references) == ["oracle", "rl2 (arm)", f"rl2 ({trained / 'arm'})", "random"]
    assert references["rl2 (arm)"]["returns"] == json.loads(out.read_text())["returns"]


def test_runs_on_different_environments_are_not_compared(trained, refused):
    line = refused("evaluate", trained / "arm", "--compare", trained / "bandit")
    assert "was trained on bandit" in line and "on reach-planar horizon=5: they cannot be compared" in line


def test_more_episodes_than_trained_are_allowed_with_a_note(trained, tmp_path, capsys):
    files = ["--json", tmp_path / "e.json", "--plot", tmp_path / "p.png"]
    assert run("evaluate", trained / "bandit", "--num-tasks", 3, "--episodes", 7, *files) == 0
    assert "note: trials of 7 episodes; " in capsys.readouterr().out
    assert json.loads((tmp_path / "e.json").read_text())["num_episodes"] == 7


def test_what_has_no_body_is_not_recorded_and_the_line_names_what_has_one(trained, refused):
    line = refused("record", trained / "bandit")
    assert "bandit has no body" in line and "reach-planar" in line and "track" in line


def test_a_run_is_resumed_with_its_own_settings(arm, capsys):
    steps = newest_checkpoint(arm / "checkpoints").step
    assert run("train", "rl2", "--env", "reach-planar", "--out", arm, "--resume") == 0
    assert "finished: 480 environment steps" in capsys.readouterr().out
    assert newest_checkpoint(arm / "checkpoints").step == steps


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "frobnicate",
            "unknown command 'frobnicate'. Available: compare, doctor, evaluate, explain, list, record, train.",
        ),
        ("trian", "Did you mean 'train'?"),
        ("train", "name the algorithm first, as in `metarl train rl2 --env reach-planar`. Available: rl2, "),
        ("train --env bandit rl2", "name the algorithm first"),
        ("train rl2", "--env is missing: choose one from `metarl list`."),
        ("train rl3 --env bandit", "unknown algorithm 'rl3'. Did you mean 'rl2'? Available: anil, cavia, "),
        ("train rl2 --env bandti", "unknown environment 'bandti'. Did you mean 'bandit'? Available: ant-crippled, "),
        ("train rl2 --env reach-planr --preset quick", "unknown environment 'reach-planr'"),
        ("train rl2 --env reach-planar --preset qick", "'qick'. Did you mean 'quick'? Available: default, quick."),
        (
            "train rl2 --env bandit --lerning-rate 1",
            "unrecognized option --lerning-rate. Did you mean --learning-rate?",
        ),
        (
            "train rl2 --env bandit --lerning_rate=1",
            "unrecognized option --lerning-rate. Did you mean --learning-rate?",
        ),
        ("train rl2 --env bandit -x 1", "unrecognized option -x."),
        ("train rl2 --evn bandit", "unrecognized option --evn. Did you mean --env?"),
        ("train rl2 --env bandit 3", "unexpected argument '3'."),
        ("train rl2 --env bandit --learning-rate fast", "--learning-rate must be a number, got 'fast'."),
        ("train rl2 --env bandit --num-worlds 1.5", "--num-worlds must be a whole number, got '1.5'."),
        ("train rl2 --env bandit --num_worlds=many", "--num-worlds must be a whole number, got 'many'."),
        ("train rl2 --env bandit --num-worlds", "--num-worlds needs a value."),
        ("train rl2 --env bandit --num-worlds 0", "num_worlds must be at least 1, got 0."),
        ("train rl2 --env bandit --num-worlds 99999999999999", "out of memory. Take fewer --num-worlds"),
        ("train rl2 --env bandit --discount 1.5", "discount must lie in [0, 1], got 1.5."),
        ("train rl2 --env bandit --learning-rate nan", "learning_rate must be finite, got nan."),
        ("train rl2 --env bandit --value-coef inf", "value_coef must be finite, got inf."),
        ("train rl2 --env bandit --torch-threads 0", "torch_threads must be at least 1"),
        ("train rl2 --env bandit --keep-checkpoints 0", "keep_checkpoints at least 1"),
        ("train rl2 --env bandit --validate-every -1", "validate_every at least 0"),
        ("train rl2 --env bandit --checkpoint-interval-s nan", "checkpoint_interval_s must be at least 0"),
        ("train rl2 --env bandit --env-options arms", "environment option 'arms' must look like num_arms=10."),
        ("train rl2 --env bandit --env-options arms=3", "unknown option of bandit 'arms'. Did you mean 'num_arms'?"),
        ("train rl2 --env bandit --env-options num_arms=x", "num_arms of bandit must be of type int, got 'x'."),
        ("train rl2 --env bandit --device gpu", "unknown device 'gpu'. Available: auto, cpu, cuda, cuda:0, ..."),
        ("train rl2 --env bandit --device cuda:977", "no device 'cuda:977': this machine has"),
        ("train rl2 --env bandit --resume", "no such run folder: runs/rl2-bandit-seed0."),
        ("evaluate", "RUN is missing: name it. See metarl evaluate --help."),
        ("evaluate runs/arm", "no such run folder: runs/arm."),
        ("evaluate x --episodes three", "--episodes must be a whole number, got 'three'."),
        ("evaluate x --num-taks 3", "unrecognized option --num-taks. Did you mean --num-tasks?"),
        ("explain", "RUN is missing: name it. See metarl explain --help."),
        ("explain x --num-taks 3", "unrecognized option --num-taks. Did you mean --num-tasks?"),
        ("train learned-loss --env bandit --loss rewrd", "unknown loss 'rewrd'. Did you mean 'reward'?"),
        ("train learned-loss --env bandit --loss formula:x.json", "cannot read formula file 'x.json': No such file"),
        ("record x --speed fast", "--speed must be a number, got 'fast'."),
        ("list bandti", "unknown environment, algorithm, data set or learner 'bandti'. Did you mean 'bandit'?"),
        ("list --all", "unrecognized option --all."),
        ("doctor well", "unexpected argument 'well'."),
    ],
)
def test_a_mistake_in_the_command_is_told_in_one_line(arguments, expected, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*arguments.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("evaluate", "--num-tasks 0", "at least one task, one episode and one world per task, got 0, 2"),
        ("evaluate", "--episodes 0", "at least one episode, got 0"),
        ("evaluate", "--seed -1", "must not be negative, got -1"),
        ("evaluate", "--device cuda:977", "no device 'cuda:977'"),
        ("record", "--num-tasks 0", "at least one task, got num_tasks 0"),
        ("record", "--episodes -1", "at least one episode, got -1"),
        ("record", "--speed 0", "speed must be a positive number, got 0.0"),
        ("record", "--render-backend vulkan", "unknown render backend 'vulkan'. Available: auto, egl, "),
    ],
)
def test_a_wrong_number_for_a_run_is_told_in_one_line(
    command, options, expected, trained, refused, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(command, trained / "arm", *options.split())


def test_a_split_that_an_environment_lacks_is_told_with_those_it_has(trained, refused):
    line = refused("evaluate", trained / "bandit", "--split", "interpolation")
    assert "unknown split 'interpolation'. Available: test, train, validation." in line
    line = refused("evaluate", trained / "bandit", "--split", "tset")
    assert "unknown split 'tset'. Did you mean 'test'? Available: test, train, validation." in line


def empty(arm):
    shutil.rmtree(arm)
    arm.mkdir()


def of_another_algorithm(arm):
    path = arm / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"algorithm": "oracle"}))


def of_an_unknown_algorithm(arm):
    path = arm / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"algorithm": "rl3"}))


def with_half_a_config(arm):
    path = arm / "config.json"
    path.write_bytes(path.read_bytes()[:40])


def with_half_a_checkpoint(arm):
    for checkpoint in (arm / "checkpoints").iterdir():
        (checkpoint / "manifest.json").unlink()


def with_flipped_bytes(arm):
    for file in (arm / "checkpoints").glob("*/model.safetensors"):
        raw = bytearray(file.read_bytes())
        raw[-5] ^= 1
        file.write_bytes(raw)


def truncated(arm):
    for file in (arm / "checkpoints").glob("*/optimizer.safetensors"):
        file.write_bytes(file.read_bytes()[:-16])


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def with_a_pickle(arm):
    for file in (arm / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(pickle.dumps(Trap(arm.parent / "sprung")))


def with_another_pickle(arm):
    for checkpoint in (arm / "checkpoints").iterdir():
        torch.save({"model": Trap(arm.parent / "sprung")}, checkpoint / "model.pt")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shutil.rmtree, "no such run folder: "),
        (empty, "is empty, not a run folder."),
        (of_another_algorithm, " of oracle on reach-planar"),
        (of_an_unknown_algorithm, "unknown algorithm 'rl3'. Did you mean 'rl2'?"),
        (with_half_a_config, "config.json is damaged: not JSON"),
        (with_half_a_checkpoint, "no manifest.json in it"),
        (with_flipped_bytes, "model.safetensors does not match its SHA-256."),
        (truncated, "optimizer.safetensors has "),
        (with_a_pickle, "model.safetensors has "),
        (with_another_pickle, "'model.pt' is not in its manifest."),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "record", "resume"])
def test_a_run_folder_that_is_not_whole_is_told_and_left_as_it_is(arm, damage, expected, command, refused):
    damage(arm)
    before = contents(arm)
    resume = ["train", "rl2", "--env", "reach-planar", "--resume", "--out", arm]
    assert expected in refused(*(resume if command == "resume" else [command, arm]))
    assert contents(arm) == before and not (arm.parent / "sprung").exists()


def test_a_run_that_was_killed_before_its_first_checkpoint_cannot_be_evaluated_but_resumed(arm, refused):
    shutil.rmtree(arm / "checkpoints")
    assert "nothing was saved there yet" in refused("evaluate", arm)
    assert run("train", "rl2", "--env", "reach-planar", "--out", arm, "--resume") == 0
    assert newest_checkpoint(arm / "checkpoints").state["env_steps"] == 480


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_is_used(arm, tmp_path, caplog):
    newest = newest_checkpoint(arm / "checkpoints").path
    (newest / "model.safetensors").write_bytes(b"nothing")
    files = ["--json", tmp_path / "e.json", "--plot", tmp_path / "p.png"]
    assert run("evaluate", arm, "--num-tasks", 2, *files) == 0
    assert str(newest) in caplog.text and "Using ckpt-" in caplog.text


def test_a_file_in_the_place_of_a_run_folder_is_told(tmp_path, refused):
    (tmp_path / "run.pt").write_bytes(pickle.dumps([1]))
    for command in ("evaluate", "record"):
        assert "run.pt is a file, not a run folder." in refused(command, tmp_path / "run.pt")


def test_a_second_run_in_a_folder_is_refused_and_the_first_is_untouched(trained, refused):
    line = refused("train", "rl2", "--env", "bandit", "--out", trained / "bandit")
    assert "holds a run already. Continue it with --resume or choose another --out." in line


def test_resuming_with_other_settings_is_refused_by_name(trained, refused):
    resume = ["--out", trained / "arm", "--resume"]
    line = refused("train", "rl2", "--env", "reach-planar", *resume, "--hidden-dim", 32)
    assert "hidden_dim is 8 there, got 32." in line
    line = refused("train", "oracle", "--env", "bandit", *resume)
    assert "is a run of rl2 on reach-planar, not of oracle on bandit." in line


def unwritable_places(tmp_path):
    """Places where not even root can write."""
    (tmp_path / "file").write_text("x")
    return [tmp_path / "file" / "x", *(p for p in [Path("/proc/x")] if Path("/proc/self").exists())]


def test_places_that_cannot_be_written_are_told_before_the_work(trained, refused, tmp_path):
    for place in unwritable_places(tmp_path):
        assert f"cannot write {place}: " in refused("evaluate", trained / "arm", "--json", place)
        assert f"cannot write {place}: " in refused("evaluate", trained / "arm", "--plot", place)
        assert f"cannot write {place}: " in refused("record", trained / "arm", "--out", place)
        assert str(place) in refused("train", "rl2", "--env", "bandit", "--out", place)
    assert "it is a folder" in refused("evaluate", trained / "arm", "--json", tmp_path)
    assert (tmp_path / "file").read_text() == "x" and [p.name for p in tmp_path.iterdir()] == ["file"]


def limit_files_to(num_bytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_full_disk_ends_a_training_in_one_line_that_says_where(tmp_path):
    # A limit on the size of a file is what a full disk is to a program: a write that does not fit.
    sizes = ["--total-steps", 800, "--num-worlds", 8, "--validate-every", 0]
    arguments = ["train", "rl2", "--env", "bandit", *sizes, "--out", tmp_path / "run"]
    ended = in_a_process(*arguments, preexec_fn=limit_files_to(20_000))
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("metarl train: cannot write checkpoint ") and "continue with --resume" in last
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_full_disk_leaves_an_older_evaluation_as_it_was(arm):
    assert run("evaluate", arm, "--num-tasks", 2) == 0
    before = contents(arm)
    ended = in_a_process("evaluate", arm, "--num-tasks", 4, preexec_fn=limit_files_to(100))
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.startswith("metarl evaluate: cannot write ") and ended.stderr.count("\n") == 1
    assert contents(arm) == before


def test_a_full_disk_leaves_no_half_video(trained, tmp_path):
    options = ["--num-tasks", 1, "--episodes", 1, "--out", tmp_path / "new" / "v.mp4"]
    ended = in_a_process("record", trained / "arm", *options, preexec_fn=limit_files_to(200))
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 1 and "v.mp4" in ended.stderr
    assert list((tmp_path / "new").iterdir()) == []


def test_help_names_the_commands_and_loads_nothing_heavy():
    code = "import sys\nfrom metarl.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    usage, loaded = ended.stdout.rsplit("\n", 2)[:2]
    assert all(command in usage for command in ("train", "evaluate", "record", "list", "doctor"))
    assert not {"torch", "mujoco", "tyro", "rich"} & set(loaded.split())


@pytest.mark.parametrize("command", ["train", "evaluate", "record", "list", "doctor"])
def test_each_command_has_help(command, capsys):
    assert run(command, "--help") == 0
    assert f"usage: metarl {command}" in capsys.readouterr().out


def test_the_help_of_train_shows_the_settings_of_the_preset(capsys):
    assert run("train", "rl2", "--env", "reach-planar", "--preset", "quick", "--help") == 0
    assert "(default: 100000)" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    from metarl import __version__

    assert run("--version") == 0
    assert capsys.readouterr().out == f"metarl {__version__}\n"


def test_no_arguments_print_the_usage(capsys):
    assert run() == 0
    assert capsys.readouterr().out.startswith("usage: metarl COMMAND")


def test_a_reader_that_leaves_early_gets_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-m", "metarl", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 1


def test_the_doctor_prints_its_table(capsys):
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    assert "metarl doctor" in printed and "free disk" in printed


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_script_takes_the_same_words_and_refuses_alike_in_any_encoding(encoding):
    script = Path(__file__).resolve().parent.parent / "scripts" / "train.py"
    command = [sys.executable, script, "rl2", "--env", "bandit", "--seed", "1.5"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    expected = "metarl train: --seed must be a whole number, got '1.5'. See metarl train --help.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", expected)
