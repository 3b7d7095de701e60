"""What `metarl train` and `metarl evaluate` do with few-shot learners: read options, call the library, print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from metarl.errors import ConfigError
from metarl.fewshot import data, learners
from metarl.fewshot.options import FewShotEvaluateOptions, FewShotTrainOptions
from metarl.options import hyphenated, parse, peek
from metarl.printing import check_writable, console, default_folder, ended, print_table


def train(arguments: list[str]) -> int:
    """`metarl train LEARNER --data DATA`."""
    from metarl.fewshot.config import FewShotConfig
    from metarl.fewshot.train import train_few_shot
    from metarl.run import resolve_device

    options = parse(FewShotTrainOptions, "train", arguments, _train_defaults(hyphenated(arguments)))
    config = FewShotConfig(
        learner=options.learner,
        data=options.data,
        settings=options.settings,
        training=options.training,
        data_options=options.data_options,
        seed=options.seed,
        device=resolve_device(options.device),
        torch_threads=options.torch_threads,
    )
    outcome = train_few_shot(
        config,
        options.out or default_folder(config.learner, config.data, config.seed),
        data_dir=options.data_dir,
        skips_broken=options.skip_broken,
        resume=options.resume,
        checkpoint_interval_s=options.checkpoint_interval_s,
        keep_checkpoints=options.keep_checkpoints,
        validate_every=options.validate_every,
    )
    return ended(outcome, "tasks")


def evaluate(arguments: list[str]) -> int:
    """`metarl evaluate RUN` where the run is of a few-shot learner."""
    options = parse(FewShotEvaluateOptions, "evaluate", arguments)

    import torch

    from metarl.fewshot.data.omniglot import official_runs
    from metarl.fewshot.evaluate import evaluate_few_shot, judge_episode, sharing_features, table
    from metarl.fewshot.pictures import embedding_picture, episode_picture, reliability_diagram
    from metarl.fewshot.run import load_few_shot_run, open_source
    from metarl.fewshot.sampler import EpisodeShape
    from metarl.run_folder import write_json
    from metarl.seeding import make_generator

    runs = [load_few_shot_run(path, options.device) for path in (options.run, *options.compare)]
    run = runs[0]
    for other in runs[1:]:
        if (run.config.data, run.config.data_options) != (other.config.data, other.config.data_options):
            raise ConfigError(f"{other.path} was trained on other data than {run.path}: they cannot be compared.")
    if options.torch_threads < 1:
        raise ConfigError(f"--torch-threads must be positive, got {options.torch_threads}.")
    torch.set_num_threads(options.torch_threads)
    json_path, pictures = options.json or run.path / "evaluation.json", options.pictures or run.path
    check_writable(json_path, "--json")
    check_writable(pictures / "reliability.png", "--pictures")
    if options.official_runs and getattr(run.config.data_options, "split_by", "") != "lake":
        raise ConfigError(
            f"--official-runs are of alphabets that {run.path} may have been trained on, if on Omniglot at all: only a "
            "run of --data omniglot --split-by lake can be judged on them."
        )
    source = open_source(run.config, options.data_dir, options.skip_broken)
    if source.is_regression:
        return _evaluate_regression(options, runs, source, json_path, pictures)
    pairing = options.pairing or run.config.training.pairing
    evaluations = []
    for loaded in runs:
        learner, tasks = sharing_features(loaded.learner, source)
        for ways in options.ways or _usual_ways(loaded, source.num_classes(options.split)):
            for shots in options.shots or (1, 5):
                shape = EpisodeShape(ways=ways, shots=shots, queries=options.queries, pairing=pairing)
                evaluations.append(
                    evaluate_few_shot(
                        learner,
                        tasks,
                        shape,
                        name=_label(loaded, runs),
                        split=options.split,
                        num_tasks=options.num_tasks,
                        seed=options.seed,
                        device=loaded.config.device,
                    )
                )
    values: dict[str, Any] = {"evaluations": [evaluation.to_json() for evaluation in evaluations]}
    if options.official_runs:
        task = official_runs(options.data_dir, source.x_shape[-1])
        judged = {_label(r, runs): judge_episode(r.learner, task.to(r.config.device), options.seed) for r in runs}
        values["official_runs"] = {
            label: {"error": 1 - share, "right": hits} for label, (share, hits) in judged.items()
        }
    write_json(json_path, values)
    written = [reliability_diagram(pictures / "reliability.png", evaluations)]
    one = (options.split, evaluations[0].shape)
    shown = source.sample(*one, 1, make_generator(options.seed, "picture"))
    names = source.class_names(*one, make_generator(options.seed, "picture"))
    log_probs = run.learner.log_probs(shown, make_generator(options.seed, "picture noise", run.config.device))
    written.append(episode_picture(pictures / "episode.png", shown, log_probs, names))
    many = min(10, source.num_classes(options.split))
    of_many = (options.split, replace(evaluations[0].shape, ways=many))
    shown = source.sample(*of_many, 1, make_generator(0, "picture"))
    names = source.class_names(*of_many, make_generator(0, "picture"))
    title = f"{run.config.learner} on {run.config.data}, {many} classes of split {options.split}"
    if embedding := embedding_picture(pictures / "embedding.png", run.learner, shown, title, names):
        written.append(embedding)
    print_table(table(evaluations), f"{run.config.data}, {options.num_tasks} tasks of split {options.split}")
    for label, result in values.get("official_runs", {}).items():
        console.print(
            f"{label}: error on Lake's 20 official runs {100 * result['error']:.1f} % ({result['right']} of 400)"
        )
    console.print(f"wrote {', '.join(str(path) for path in (json_path, *written))}")
    return 0


def _evaluate_regression(
    options: FewShotEvaluateOptions, runs: Sequence[Any], source: Any, json_path: Path, pictures: Path
) -> int:
    """`evaluate` where targets are numbers."""
    from metarl.fewshot.regression import curves_picture, evaluate_regression, table
    from metarl.fewshot.sampler import EpisodeShape
    from metarl.run_folder import write_json

    if set(options.ways) - {1}:
        raise ConfigError(f"{source.name} has no classes: leave out --ways {' '.join(map(str, options.ways))}.")
    evaluations = [
        evaluate_regression(
            run.learner,
            source,
            EpisodeShape(ways=1, shots=shots, queries=options.queries, pairing=options.pairing or "any"),
            name=_label(run, runs),
            split=options.split,
            num_tasks=options.num_tasks,
            seed=options.seed,
            device=run.config.device,
        )
        for run in runs
        for shots in options.shots or (run.config.training.shots,)
    ]
    write_json(json_path, {"evaluations": [evaluation.to_json() for evaluation in evaluations]})
    run = runs[0]
    shown = curves_picture(pictures / "curves.png", run.learner, source, options.split, evaluations[0].shape.shots)
    title = f"{source.name}, mean squared error, {options.num_tasks} tasks of split {options.split}"
    print_table(table(evaluations), title)
    console.print(f"wrote {json_path}, {shown}")
    return 0


def _usual_ways(run: Any, num_classes: int) -> Sequence[int]:
    if not run.learner.any_ways:
        return (run.config.training.ways,)
    return (min(5, num_classes),)


def _label(run: Any, runs: Sequence[Any]) -> str:
    """A run's learner, with its folder where another run is of the same one."""
    is_unique = sum(other.config.learner == run.config.learner for other in runs) == 1
    return run.config.learner if is_unique else f"{run.config.learner} ({run.path.name})"


def _train_defaults(arguments: Sequence[str]) -> FewShotTrainOptions:
    """Where the options of a training start from: the preset, or the run that is to be resumed."""
    from metarl.fewshot.data import options_type
    from metarl.fewshot.presets import preset

    asks_help = bool({"-h", "--help"} & set(arguments))
    if not asks_help and (not arguments or arguments[0].startswith("-")):
        raise ConfigError(
            "name the learner first, as in `metarl train protonet --data omniglot`. "
            f"Available: {', '.join(learners.names())}."
        )
    learner = next((a for a in arguments[:1] if not a.startswith("-")), learners.names()[0])
    data_set = peek(arguments, "--data")
    learners.find(learner)
    if data_set is None and not asks_help:
        raise ConfigError(
            f"{learner} is a few-shot learner: name a data set with --data. Available: {', '.join(data.names())}."
        )
    data_set = data_set or data.names()[0]
    data.find(data_set)
    name = peek(arguments, "--preset")
    if "--resume" in arguments and not name:
        start = _saved_options(arguments, learner, data_set)
    else:
        settings, training = preset(learner, data_set, name or "default")
        start = {"settings": settings, "training": training, "data_options": options_type(data_set)()}
    return FewShotTrainOptions(learner=tyro.MISSING, data=tyro.MISSING, **start)


def _saved_options(arguments: Sequence[str], learner: str, data_set: str) -> dict[str, Any]:
    """The options of the run that is to be resumed."""
    from metarl.fewshot.run import read_few_shot_config
    from metarl.run_folder import open_run

    out = peek(arguments, "--out") or default_folder(learner, data_set, peek(arguments, "--seed") or 0)
    run = open_run(Path(out))
    config = read_few_shot_config(run.config, run.path)
    if (config.learner, config.data) != (learner, data_set):
        raise ConfigError(f"{run.path} is a run of {config.learner} on {config.data}, not of {learner} on {data_set}.")
    names = ("settings", "training", "data_options", "seed", "device", "torch_threads")
    return {name: getattr(config, name) for name in names}
