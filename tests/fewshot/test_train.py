"""Training: it learns, stops, resumes bit for bit, and refuses what cannot be trained; on the command line too."""

import json
import time
from dataclasses import fields, replace

import pytest
import torch

from metarl.checkpoint import newest_checkpoint
from metarl.cli import main
from metarl.errors import CheckpointError, ConfigError
from metarl.fewshot import data, learners
from metarl.fewshot.config import FewShotConfig, FewShotTraining
from metarl.fewshot.data import options_type
from metarl.fewshot.evaluate import evaluate_few_shot
from metarl.fewshot.presets import preset, preset_names
from metarl.fewshot.run import load_few_shot_run, open_source
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.train import FewShotLoop, learning_rate, train_few_shot
from metarl.log import read_metrics
from metarl.run_folder import open_run

SMALL = {"ways": 3, "shots": 1, "queries": 2, "num_updates": 6, "meta_batch_size": 2}


def config(learner="protonet", data_set="omniglot", **changes):
    settings, training = preset(learner, data_set)
    settings = replace(settings, hidden_dim=8)
    return FewShotConfig(
        learner, data_set, settings, replace(training, **SMALL | changes), options_type(data_set)(), seed=1
    )


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def weights(folder):
    return newest_checkpoint(folder / "checkpoints").tensors["model"]


@pytest.mark.parametrize("learner", ["protonet", "maml", "reptile", "bmaml"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(small_data, tmp_path, learner):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    how = {"data_dir": small_data, "console": False, "validate_every": 0}
    asked = config(learner)
    assert train_few_shot(asked, whole, **how).finished
    source = open_source(asked, small_data)
    loop = FewShotLoop(asked, source)
    from metarl.log import MetricsLogger
    from metarl.run_folder import start_run

    with (
        start_run(parts, asked.to_json()) as folder,
        MetricsLogger(parts, 0, 12, console=False, counted="tasks") as log,
    ):
        for _ in range(2):
            log.log(loop.update + 1, loop.advance())
        loop.save(folder, log, 3)
    assert train_few_shot(asked, parts, resume=True, **how).finished
    first, second = weights(whole), weights(parts)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    losses = [[line.get("loss") for line in read_metrics(folder / "metrics.jsonl")] for folder in (whole, parts)]
    assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.slow
def test_protonet_learns_shapes_that_it_never_saw(small_data, tmp_path):
    asked = config(num_updates=60, meta_batch_size=4, ways=6, queries=4, lr=3e-3)
    asked = replace(asked, settings=replace(asked.settings, hidden_dim=32))
    source = open_source(asked, small_data)
    loop = FewShotLoop(asked, source)

    def accuracy():
        shape = EpisodeShape(ways=5, shots=1, queries=3)
        return evaluate_few_shot(loop.learner, source, shape, name="protonet", num_tasks=60).accuracy.mean

    losses = [loop.advance()["loss"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:5]) * 2
    assert accuracy() > 0.9


def test_a_loaded_run_predicts_what_the_trained_one_did(small_data, tmp_path):
    train_few_shot(config(), tmp_path / "run", data_dir=small_data, console=False)
    loaded = load_few_shot_run(tmp_path / "run", "cpu")
    assert loaded.update == 6 and loaded.x_shape == (1, 28, 28)
    source = open_source(loaded.config, small_data)
    episode = source.sample("test", EpisodeShape(ways=4, queries=2), 3, torch.Generator().manual_seed(0))
    generator = torch.Generator()
    first = loaded.learner.log_probs(episode, generator)
    again = load_few_shot_run(tmp_path / "run" / "checkpoints" / "ckpt-00000006", "cpu")
    assert torch.equal(first, again.learner.log_probs(episode, generator))
    assert first.shape == (3, 8, 4) and torch.allclose(first.exp().sum(-1), torch.ones(3, 8))


def test_the_validation_accuracy_is_in_the_metrics(small_data, tmp_path):
    train_few_shot(config(), tmp_path / "run", data_dir=small_data, console=False, validate_every=3)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "validation_accuracy" in line] == [3, 6]
    assert [line["tasks"] for line in lines] == [2, 4, 6, 8, 10, 12]


def test_training_ends_after_its_minutes(small_data, tmp_path):
    asked = config(num_updates=10_000, max_minutes=1e-4)
    outcome = train_few_shot(asked, tmp_path / "run", data_dir=small_data, console=False)
    assert outcome.finished and outcome.env_steps < 2_000


def test_time_in_which_others_have_the_processor_does_not_count(small_data):
    loop = FewShotLoop(config(), open_source(config(), small_data))
    loop.advance()
    before, loss = loop.train_s, loop.learner.loss

    def waiting(episode, generator):
        time.sleep(0.5)
        return loss(episode, generator)

    loop.learner.loss = waiting
    loop.advance()
    assert 0 < loop.train_s - before < 0.4


def test_step_sizes_follow_their_schedule():
    cosine = config(lr=0.1)
    assert [learning_rate(cosine, 0, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.1, 0.05, 0.0])
    halving = config(lr=0.1, lr_schedule="halving", lr_halving_updates=10)
    assert [learning_rate(halving, update, 0.0) for update in (0, 9, 10, 25)] == pytest.approx([0.1, 0.1, 0.05, 0.025])


def test_an_update_that_is_not_finite_is_left_out_and_many_end_the_training(small_data):
    loop = FewShotLoop(config(), open_source(config(), small_data))
    before = {name: value.clone() for name, value in loop.learner.state_dict().items() if "weight" in name}
    loop.learner.loss = lambda episode, generator: (loop.parameters[0].sum() * float("nan"), {})
    assert loop.advance()["skipped_updates"] == 1
    assert all(torch.equal(value, loop.learner.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ConfigError, match=r"training diverged: .* 50 updates in a row"):
        for _ in range(60):
            loop.advance()


def test_resume_refuses_other_settings_and_a_run_of_another_learner(small_data, tmp_path):
    train_few_shot(config(), tmp_path / "run", data_dir=small_data, console=False)
    with pytest.raises(ConfigError, match=r"lr is 0\.001 there, got 0\.5"):
        train_few_shot(config(lr=0.5), tmp_path / "run", data_dir=small_data, resume=True)
    with pytest.raises(CheckpointError, match="holds a run already"):
        train_few_shot(config(), tmp_path / "run", data_dir=small_data)


def test_more_ways_than_classes_are_refused_before_a_folder_is_made(small_data, tmp_path):
    with pytest.raises(ConfigError, match="split train of omniglot has 56 classes, too few for 99 ways"):
        train_few_shot(config(ways=99), tmp_path / "run", data_dir=small_data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("learner", learners.names())
def test_configurations_survive_json_and_every_learner_has_a_preset_everywhere(learner):
    for data_set in data.names():
        for name in preset_names(learner, data_set):
            settings, training = preset(learner, data_set, name)
            asked = FewShotConfig(learner, data_set, settings, training, options_type(data_set)())
            assert FewShotConfig.from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_no_option_means_two_things():
    for learner in learners.names():
        for data_set in data.names():
            kinds = (type(preset(learner, data_set)[0]), FewShotTraining, options_type(data_set))
            names = [field.name for kind in kinds for field in fields(kind)]
            assert len(names) == len(set(names)), (learner, data_set)


def test_the_command_line_trains_resumes_and_evaluates(small_data, tmp_path, capsys):
    out = tmp_path / "run"
    sizes = ["--ways", 3, "--queries", 2, "--num-updates", 3, "--hidden-dim", 8, "--norm", "batch"]
    where = ["--data-dir", small_data]
    assert run("train", "protonet", "--data", "omniglot", "--out", out, *sizes, *where) == 0
    saved = open_run(out).config
    assert saved["settings"]["norm"] == "batch" and saved["training"]["ways"] == 3 and saved["data"] == "omniglot"
    assert run("train", "protonet", "--data", "omniglot", "--out", out, "--resume", *where) == 0
    tasks = ["--num-tasks", 4, "--queries", 3, "--ways", 3, 5, "--shots", 1, 2]
    assert run("evaluate", out, *tasks, *where, "--official-runs") == 2
    assert "only a run of --data omniglot --split-by lake" in capsys.readouterr().err
    assert run("evaluate", out, *tasks, *where) == 0
    shown = capsys.readouterr().out
    assert (
        "ECE %" in shown
        and "AUROC %" in shown
        and max(map(len, shown[shown.index("omniglot") :].splitlines()[:9])) <= 80
    )
    values = json.loads((out / "evaluation.json").read_text())["evaluations"]
    assert [(v["shape"]["ways"], v["shape"]["shots"]) for v in values] == [(3, 1), (3, 2), (5, 1), (5, 2)]
    for picture in ("reliability.png", "episode.png", "embedding.png"):
        assert (out / picture).stat().st_size > 5_000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["protonet"], "name a data set with --data. Available: omniglot, spoken-digits"),
        (["protonet", "--env", "track"], "protonet is a few-shot learner: name a data set with --data."),
        (["protonet", "--data", "omniglod"], "unknown data set 'omniglod'. Did you mean 'omniglot'?"),
        (["protonot", "--data", "omniglot"], "unknown few-shot learner 'protonot'. Did you mean 'protonet'?"),
        (["protonet", "--data", "omniglot", "--wayz", "5"], "unrecognized option --wayz. Did you mean --ways?"),
        (["protonet", "--data", "omniglot", "--shots", "0"], "shots must be at least 1, got 0"),
        (["protonet", "--data", "omniglot", "--data-dir", "/nowhere"], "omniglot: no such data folder /nowhere"),
        (["protonet", "--data", "omniglot", "--preset", "best"], "unknown preset of protonet on omniglot 'best'"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, complaint, capsys):
    assert run("train", *arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1, error


def test_a_few_shot_run_is_evaluated_with_the_ways_of_its_head_alone(small_data, tmp_path, capsys):
    out = tmp_path / "run"
    where = ["--data-dir", small_data]
    sizes = ["--ways", 3, "--queries", 2, "--num-updates", 1, "--hidden-dim", 8, "--meta-batch-size", 2]
    assert run("train", "fomaml", "--data", "omniglot", "--out", out, *sizes, *where) == 0
    assert run("evaluate", out, "--num-tasks", 2, "--queries", 2, "--shots", 1, *where) == 0
    assert "fomaml" in capsys.readouterr().out
    assert run("evaluate", out, "--num-tasks", 2, "--queries", 2, "--shots", 1, "--ways", 4, *where) == 2
    assert "has 3 outputs and cannot judge 4-way tasks" in capsys.readouterr().err
    for command in ("record", "compare", "explain"):
        assert run(command, out) == 2
        assert "is a run of the few-shot learner fomaml on omniglot" in capsys.readouterr().err


@pytest.mark.parametrize("learner", learners.names())
def test_every_learner_trains_and_is_evaluated_on_images_and_signals(small_data, tmp_path, learner):
    for data_set in ("omniglot", "borealtc"):
        asked = config(learner, data_set, ways=2, num_updates=1, pairing="any")
        out = tmp_path / data_set
        assert train_few_shot(asked, out, data_dir=small_data, console=False, validate_every=0).finished
        loaded, source = load_few_shot_run(out, "cpu"), open_source(asked, small_data)
        shape = EpisodeShape(ways=2, shots=1, queries=2)
        judged = evaluate_few_shot(loaded.learner, source, shape, name=learner, num_tasks=2)
        assert 0 <= judged.accuracy.mean <= 1 and judged.nll.mean > 0 and judged.unknown_auroc is not None


def test_sinusoid_trains_and_validates(tmp_path):
    asked = config("maml", "sinusoid", ways=1, shots=5, queries=5)
    assert train_few_shot(asked, tmp_path / "run", console=False, validate_every=3).finished
    assert "validation_mse" in read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
