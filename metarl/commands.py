"""What the commands of `metarl` do: read options, call the library, print."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from metarl.errors import ConfigError, UnknownNameError
from metarl.options import (
    CompareOptions,
    DoctorOptions,
    EvaluateOptions,
    ExplainOptions,
    ListOptions,
    RecordOptions,
    TrainOptions,
    hyphenated,
    parse,
    peek,
)
from metarl.printing import check_writable, console, default_folder, ended, print_table

if TYPE_CHECKING:
    from metarl.evaluate import Evaluation
    from metarl.rollout import Adapts
    from metarl.run import LoadedRun

_MAX_WIDTH = 120
_RECORDED_INNER_STEPS = 3


def train(arguments: list[str]) -> int:
    """`metarl train`."""
    if _names_few_shot_learner(arguments):
        from metarl.fewshot import commands as few_shot

        return few_shot.train(arguments)
    from metarl.config import RunConfig
    from metarl.run import resolve_device
    from metarl.train import train as run_training

    options = parse(TrainOptions, "train", arguments, _train_defaults(hyphenated(arguments)))
    config = RunConfig(
        algorithm=options.algorithm,
        env=options.env,
        settings=options.settings,
        env_options=_env_options(options.env_options),
        seed=options.seed,
        device=resolve_device(options.device),
        num_train_tasks=options.num_train_tasks,
        torch_threads=options.torch_threads,
        physics_threads=options.physics_threads,
        compile_env=options.compile_env,
    )
    outcome = run_training(
        config,
        options.out or default_folder(config.algorithm, config.env, config.seed),
        resume=options.resume,
        checkpoint_interval_s=options.checkpoint_interval_s,
        keep_checkpoints=options.keep_checkpoints,
        validate_every=options.validate_every,
    )
    return ended(outcome, "environment steps")


def evaluate(arguments: list[str]) -> int:
    """`metarl evaluate`."""
    if _names_few_shot_run(arguments):
        from metarl.fewshot import commands as few_shot

        return few_shot.evaluate(arguments)
    options = parse(EvaluateOptions, "evaluate", arguments)

    from metarl.evaluate import axis_of, metrics_table, table
    from metarl.evaluate import evaluate as run_evaluation
    from metarl.expert import Expert
    from metarl.learners.random_policy import RandomPolicy
    from metarl.plots import adaptation_curve
    from metarl.run import load_run, on_env
    from metarl.run_folder import write_json

    run = load_run(options.run, options.device)
    name = "evaluation"
    if options.env not in (None, run.config.env):
        run, name = on_env(run, options.env), f"evaluation-{options.env}"
    others = [load_run(path, options.device) for path in options.compare]
    for other in others:
        _refuse_another_env(run, other)
    json_path = options.json or run.path / f"{name}.json"
    plot_path = options.plot or run.path / f"{name}.png"
    check_writable(json_path, "--json")
    check_writable(plot_path, "--plot")
    protocol: dict[str, Any] = {
        "split": options.split,
        "num_tasks": options.num_tasks,
        "num_episodes": _num_episodes(run, options.episodes),
        "seed": options.seed,
        "device": run.config.device,
    }
    evaluations: dict[str, Evaluation] = {}
    for loaded in [run, *others]:
        _scale_later_steps(loaded, options.later_step_scale)
        per_task = _default(options.episodes_per_task, loaded.config.settings.episodes_per_task)
        evaluations[_label(loaded, evaluations)] = run_evaluation(
            loaded.learner,
            loaded.spec,
            algorithm=loaded.config.algorithm,
            episodes_per_task=per_task,
            deterministic=False if options.stochastic else None,
            **protocol,
        )
    if options.prototypes:
        warm, sampled = _with_prototypes(run), False if options.stochastic else None
        label = "prototypes"
        evaluations[label] = run_evaluation(
            warm, run.spec, algorithm=run.config.algorithm, deterministic=sampled, **protocol
        )
    if run.spec.expert is not None:
        evaluations["expert"] = run_evaluation(Expert(), run.spec, algorithm="expert", **protocol)
    random = RandomPolicy(run.spec)
    evaluations["random"] = run_evaluation(random, run.spec, algorithm="random", deterministic=False, **protocol)
    first, *references = evaluations
    values = evaluations[first].to_json()
    values["references"] = {label: evaluations[label].to_json() for label in references}
    write_json(json_path, values)
    picture, _ = adaptation_curve(plot_path, evaluations, **axis_of(evaluations[first].adapts_by))
    # Last, because a reader that leaves early, as `head` does, ends the program.
    print_table(table(evaluations), f"{run.spec.name}, {options.num_tasks} tasks of split {options.split}")
    if rows := metrics_table(evaluations):
        print_table(rows, "means over tasks")
    console.print(f"wrote {json_path} and {picture}")
    return 0


def compare(arguments: list[str]) -> int:
    """`metarl compare`."""
    options = parse(CompareOptions, "compare", arguments)

    from metarl.evaluate import evaluate as run_evaluation
    from metarl.evaluate import table
    from metarl.plots import budget_curve
    from metarl.run import load_run
    from metarl.run_folder import write_json

    if not options.runs:
        raise ConfigError("name the runs to compare, as in `metarl compare runs/rl2 runs/maml`.")
    if options.scratch_steps < 0 or options.scratch_tasks < 1:
        got = f"{options.scratch_steps} and {options.scratch_tasks}"
        raise ConfigError(f"--scratch-steps must be at least 0 and --scratch-tasks at least 1, got {got}.")
    runs = [load_run(path, options.device) for path in options.runs]
    for other in runs[1:]:
        _refuse_another_env(runs[0], other)
    json_path = options.out.with_suffix(".json")
    check_writable(options.out, "--out")
    evaluations: dict[str, Evaluation] = {}
    for run in runs:
        _scale_later_steps(run, options.later_step_scale)
        evaluations[_label(run, evaluations)] = run_evaluation(
            run.learner,
            run.spec,
            algorithm=run.config.algorithm,
            split=options.split,
            num_tasks=options.num_tasks,
            num_episodes=_num_episodes(run, options.episodes),
            episodes_per_task=run.config.settings.episodes_per_task,
            seed=options.seed,
            deterministic=False if options.stochastic else None,
            device=run.config.device,
        )
    curves: dict[str, Any] = dict(evaluations)
    values = {label: evaluation.to_json() for label, evaluation in evaluations.items()}
    if options.scratch_steps:
        from metarl.baselines import scratch_curve

        tasks = runs[0].spec.tasks.split(options.split, options.scratch_tasks, options.seed)
        curves["from scratch"] = scratch_curve(runs[0].spec, tasks, options.scratch_steps, options.seed)
        values["from scratch"] = asdict(curves["from scratch"])
    write_json(json_path, values)
    title = f"{runs[0].spec.name}, {options.num_tasks} tasks of split {options.split}"
    picture, _ = budget_curve(options.out, curves, title=title)
    print_table(table(evaluations), title)
    console.print(f"wrote {json_path} and {picture}")
    return 0


def record(arguments: list[str]) -> int:
    """`metarl record`."""
    options = parse(RecordOptions, "record", arguments)

    from metarl.evaluate import samples_support
    from metarl.record import record as run_recording
    from metarl.record import require_body
    from metarl.run import load_run
    from metarl.seeding import make_generator

    run = load_run(options.run, options.device)
    require_body(run.spec)
    out = options.out or Path("videos") / f"{run.config.algorithm}-{run.config.env}.mp4"
    check_writable(out, "--out")
    _scale_later_steps(run, options.later_step_scale)
    by_inner_steps = samples_support(run.learner)
    num_episodes = _num_episodes(run, options.episodes)
    if by_inner_steps and options.episodes is None:
        num_episodes = max(num_episodes, _RECORDED_INNER_STEPS + 1)
    is_sampled = options.stochastic or by_inner_steps or run.spec.samples_actions
    recording = run_recording(
        run.learner,
        run.spec,
        run.spec.tasks.split(options.split, options.num_tasks, options.seed),
        num_episodes,
        out,
        episodes_per_task=run.config.settings.episodes_per_task,
        stages=sorted({0, min(1, num_episodes - 1), num_episodes - 1}) if by_inner_steps else (),
        generator=make_generator(options.seed, "evaluation", run.config.device) if is_sampled else None,
        seed=options.seed,
        device=run.config.device,
        title=f"{run.config.algorithm} on unseen tasks of {run.config.env} ({options.split})",
        speed=options.speed,
        render_backend=options.render_backend,
    )
    console.print(
        f"wrote {recording.path}: {recording.num_frames} frames of {recording.width}x{recording.height} "
        f"at {float(recording.fps):g} per second, drawn with {recording.backend}"
    )
    return 0


def explain(arguments: list[str]) -> int:
    """`metarl explain`."""
    options = parse(ExplainOptions, "explain", arguments)

    from metarl.explain.report import explain as write_explanation
    from metarl.run import load_run

    if options.num_tasks < 2 or options.num_validation_tasks < 1 or options.seed < 0:
        raise ConfigError(
            "--num-tasks must be at least 2, --num-validation-tasks at least 1 and --seed not negative, "
            f"got {options.num_tasks}, {options.num_validation_tasks} and {options.seed}."
        )
    run = load_run(options.run, options.device)
    out = options.out or run.path / "explain"
    check_writable(out / "index.html", "--out")
    path = write_explanation(
        run,
        out,
        num_tasks=options.num_tasks,
        num_validation_tasks=options.num_validation_tasks,
        skips_formula=options.skip_formula,
        seed=options.seed,
    )
    console.print(f"wrote {path} and its numbers, {path.with_name('explain.json')}")
    return 0


def list_names(arguments: list[str]) -> int:
    """`metarl list`."""
    options = parse(ListOptions, "list", arguments)

    from metarl.listing import details, overview

    width = min(console.width, _MAX_WIDTH)
    console.print(details(options.name, width) if options.name else overview(width))
    return 0


def doctor(arguments: list[str]) -> int:
    """`metarl doctor`."""
    parse(DoctorOptions, "doctor", arguments)

    from metarl.doctor import as_table, report

    Console().print(as_table(report()))
    return 0


def _names_few_shot_learner(arguments: Sequence[str]) -> bool:
    """Whether a training is one on a data set: it names one, or an algorithm that there is for nothing else."""
    from metarl import learners
    from metarl.fewshot import learners as few_shot

    if peek(arguments, "--data") is not None:
        return True
    only_there = set(few_shot.names()) - set(learners.names())
    return bool(arguments) and arguments[0] in only_there


def _names_few_shot_run(arguments: Sequence[str]) -> bool:
    from metarl.fewshot.run import is_few_shot_run

    return any(is_few_shot_run(Path(a)) for a in arguments[:1] if not a.startswith("-"))


def _with_prototypes(run: LoadedRun) -> Adapts:
    from metarl.learners.context_rl import ContextRL

    if not isinstance(run.learner, ContextRL):
        raise ConfigError(f"--prototypes goes with runs of context-rl, {run.path} is one of {run.config.algorithm}.")
    return run.learner.with_prototypes()


def _train_defaults(arguments: Sequence[str]) -> TrainOptions:
    """Where the options of a training start from: the preset, or the run that is to be resumed."""
    import envs
    from metarl import learners

    names = learners.names()
    asks_help = bool({"-h", "--help"} & set(arguments))
    if not asks_help and (not arguments or arguments[0].startswith("-")):
        raise ConfigError(
            f"name the algorithm first, as in `metarl train rl2 --env reach-planar`. Available: {', '.join(names)}."
        )
    algorithm = next((a for a in arguments[:1] if not a.startswith("-")), names[0])
    env = peek(arguments, "--env") or ""
    learners.find(algorithm)
    if env and env not in envs.names():
        raise UnknownNameError("environment", env, envs.names(), shown=envs.families(envs.names()))
    preset = peek(arguments, "--preset")
    if "--resume" in arguments and env and not preset:
        start = _saved_options(arguments, algorithm, env)
    else:
        start = {"settings": learners.preset(algorithm, env, preset or "default")}
    return TrainOptions(algorithm=tyro.MISSING, env=tyro.MISSING, **start)


def _saved_options(arguments: Sequence[str], algorithm: str, env: str) -> dict[str, Any]:
    """The options of the run that is to be resumed."""
    from metarl.run import read_config
    from metarl.run_folder import open_run

    out = peek(arguments, "--out") or default_folder(algorithm, env, peek(arguments, "--seed") or 0)
    run = open_run(Path(out))
    config = read_config(run.config, run.path)
    if (config.algorithm, config.env) != (algorithm, env):
        raise ConfigError(f"{run.path} is a run of {config.algorithm} on {config.env}, not of {algorithm} on {env}.")
    return {
        "settings": config.settings,
        "env_options": tuple(f"{name}={json.dumps(value)}" for name, value in config.env_options.items()),
        "seed": config.seed,
        "device": config.device,
        "num_train_tasks": config.num_train_tasks,
        "torch_threads": config.torch_threads,
        "physics_threads": config.physics_threads,
        "compile_env": config.compile_env,
    }


def _refuse_another_env(run: LoadedRun, other: LoadedRun) -> None:
    here, there = ((r.config.env, r.config.env_options) for r in (run, other))
    if here != there:
        name, there_name = (" ".join([n, *(f"{k}={v}" for k, v in o.items())]) for n, o in (here, there))
        raise ConfigError(f"{other.path} was trained on {there_name}, {run.path} on {name}: they cannot be compared.")


def _label(run: LoadedRun, taken: Collection[str]) -> str:
    """A name for a run in tables and pictures: its algorithm, with its folder where that is taken."""
    names = [run.config.algorithm, f"{run.config.algorithm} ({run.path.name})", f"{run.config.algorithm} ({run.path})"]
    numbered = (f"{names[-1]} #{number}" for number in range(2, 2 + len(taken)))
    return next(name for name in [*names, *numbered] if name not in taken)


def _env_options(pairs: Sequence[str]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"environment option {pair!r} must look like num_arms=10.")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            options[name.replace("-", "_")] = value
    return options


def _num_episodes(run: LoadedRun, asked: int | None) -> int:
    trained = run.config.settings.episodes_per_trial
    if asked is not None and asked < 1:
        raise ConfigError(f"a trial has at least one episode, got {asked}.")
    if asked is not None and getattr(run.config.settings, "memory", True) and asked > trained:
        console.print(f"note: trials of {asked} episodes; {run.path} was trained on trials of {trained}.")
    return trained if asked is None else asked


def _default(asked: int | None, usual: int) -> int:
    return usual if asked is None else asked


def _scale_later_steps(run: LoadedRun, scale: float | None) -> None:
    """Set the factor on inner steps beyond those that were meta-trained."""
    if scale is None:
        return
    if not hasattr(run.learner, "later_step_scale"):
        raise ConfigError(f"--later-step-scale is for learners with inner steps; {run.config.algorithm} has none.")
    if not 0 <= scale < math.inf:
        raise ConfigError(f"--later-step-scale must be finite and not negative, got {scale}.")
    run.learner.later_step_scale = scale
