"""What the commands of `metarl` do: read options, call the library, print."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from metarl.errors import ConfigError

if TYPE_CHECKING:
    from metarl.evaluate import Evaluation
    from metarl.run import LoadedRun

Split = Literal["train", "validation", "test", "interpolation", "extrapolation"]
Options = TypeVar("Options")

_console = Console(highlight=False)


@dataclass(frozen=True)
class TrainOptions:
    """Meta-train an algorithm on an environment's task distribution."""

    algorithm: tyro.conf.Positional[str]
    """Algorithm: see `metarl list`."""
    env: str
    """Environment: see `metarl list`."""
    settings: tyro.conf.OmitArgPrefixes[Any]
    """Settings of the algorithm."""
    preset: str = "default"
    """Settings to start from: see `metarl list`."""
    out: Path | None = None
    """Run folder; default runs/ALGORITHM-ENV-seedSEED."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Go on with the run in the folder, from its newest whole checkpoint."""
    env_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Options of the environment, such as num_arms=10."""
    torch_threads: int = 1
    """Threads of torch on the CPU."""
    physics_threads: int = 0
    """Threads of the CPU physics engine, 0 for all cores."""
    checkpoint_interval_s: float = 60.0
    """Seconds between checkpoints."""
    keep_checkpoints: int = 3
    """Checkpoints to keep."""
    validate_every: int = 20
    """Updates between evaluations on the validation split, 0 for none."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Let a trained run adapt to unseen tasks, and say how well, episode by episode."""

    run: tyro.conf.Positional[Path]
    """Run folder, or one of its checkpoints."""
    split: Split = "test"
    """Which tasks."""
    num_tasks: int = 64
    """How many tasks."""
    episodes: int | None = None
    """Episodes per trial; default: as many as in training."""
    seed: int = 0
    """Seed of the tasks, the worlds' noise and sampled actions."""
    stochastic: bool = False
    """Sample actions instead of taking the likeliest."""
    compare: tuple[Path, ...] = ()
    """Other runs on the same environment, to put beside this one."""
    json: Path | None = None
    """Where the numbers go; default RUN/evaluation.json."""
    plot: Path | None = None
    """Where the picture goes; default RUN/evaluation.png."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class RecordOptions:
    """Write a video of a trained run adapting to unseen tasks, side by side."""

    run: tyro.conf.Positional[Path]
    """Run folder, or one of its checkpoints."""
    split: Split = "test"
    """Which tasks."""
    num_tasks: int = 4
    """Panels of the video."""
    episodes: int | None = None
    """Episodes per trial; default: as many as in training."""
    out: Path | None = None
    """The video; default videos/ALGORITHM-ENV.mp4."""
    seed: int = 0
    """Seed of the tasks and the worlds' noise."""
    speed: float = 1.0
    """1 plays in real time, 2 twice as fast."""
    stochastic: bool = False
    """Sample actions instead of taking the likeliest."""
    render_backend: str = "auto"
    """auto, egl, osmesa, glfw or warp."""
    device: str = "auto"
    """auto, cpu or cuda."""


def train(arguments: list[str]) -> int:
    """`metarl train`."""
    from metarl import learners
    from metarl.config import RunConfig
    from metarl.run import resolve_device
    from metarl.train import train as run_training

    algorithm = next((a for a in arguments[:1] if not a.startswith("-")), "rl2")
    env = _peek(arguments, "--env") or ""
    settings = learners.preset(algorithm, env, _peek(arguments, "--preset") or "default")
    default = TrainOptions(algorithm=tyro.MISSING, env=tyro.MISSING, settings=settings)
    options = _parse(TrainOptions, "train", arguments, default)
    config = RunConfig(
        algorithm=options.algorithm,
        env=options.env,
        settings=options.settings,
        env_options=_env_options(options.env_options),
        seed=options.seed,
        device=resolve_device(options.device),
        torch_threads=options.torch_threads,
        physics_threads=options.physics_threads,
    )
    outcome = run_training(
        config,
        options.out or Path("runs") / f"{config.algorithm}-{config.env}-seed{config.seed}",
        resume=options.resume,
        checkpoint_interval_s=options.checkpoint_interval_s,
        keep_checkpoints=options.keep_checkpoints,
        validate_every=options.validate_every,
    )
    state = "finished" if outcome.finished else "stopped, go on with --resume"
    _console.print(f"{state}: {outcome.env_steps:,} environment steps in {outcome.folder}")
    return outcome.exit_code


def evaluate(arguments: list[str]) -> int:
    """`metarl evaluate`."""
    options = _parse(EvaluateOptions, "evaluate", arguments)

    from metarl.evaluate import evaluate as run_evaluation
    from metarl.evaluate import table
    from metarl.learners.random_policy import RandomPolicy
    from metarl.plots import adaptation_curve
    from metarl.run import load_run
    from metarl.run_folder import write_json

    run = load_run(options.run, options.device)
    others = [load_run(path, options.device) for path in options.compare]
    for other in others:
        if (other.config.env, other.config.env_options) != (run.config.env, run.config.env_options):
            raise ConfigError(f"{other.path} was trained on {other.config.env}, {run.path} on {run.config.env}.")
    num_episodes = _num_episodes(run, options.episodes)
    protocol: dict[str, Any] = {
        "split": options.split,
        "num_tasks": options.num_tasks,
        "num_episodes": num_episodes,
        "seed": options.seed,
        "deterministic": not options.stochastic,
        "device": run.config.device,
    }
    evaluations: dict[str, Evaluation] = {}
    for loaded in [run, *others]:
        name = loaded.config.algorithm
        label = name if name not in evaluations else f"{name} ({loaded.path.name})"
        evaluations[label] = run_evaluation(loaded.learner, loaded.spec, algorithm=name, **protocol)
    protocol["deterministic"] = False
    evaluations["random"] = run_evaluation(RandomPolicy(run.spec), run.spec, algorithm="random", **protocol)
    _print_table(table(evaluations), f"{run.spec.name}, {options.num_tasks} tasks of split {options.split}")
    values = evaluations[run.config.algorithm].to_json()
    values["references"] = {
        label: e.to_json() for label, e in evaluations.items() if e.algorithm != values["algorithm"]
    }
    json_path = options.json or run.path / "evaluation.json"
    plot_path = options.plot or run.path / "evaluation.png"
    write_json(json_path, values)
    adaptation_curve(plot_path, evaluations)
    _console.print(f"wrote {json_path} and {plot_path}")
    return 0


def record(arguments: list[str]) -> int:
    """`metarl record`."""
    options = _parse(RecordOptions, "record", arguments)

    from metarl.record import record as run_recording
    from metarl.run import load_run
    from metarl.seeding import make_generator

    run = load_run(options.run, options.device)
    recording = run_recording(
        run.learner,
        run.spec,
        run.spec.tasks.split(options.split, options.num_tasks, options.seed),
        _num_episodes(run, options.episodes),
        options.out or Path("videos") / f"{run.config.algorithm}-{run.config.env}.mp4",
        generator=make_generator(options.seed, "evaluation", run.config.device) if options.stochastic else None,
        seed=options.seed,
        device=run.config.device,
        title=f"{run.config.algorithm} on unseen tasks of {run.config.env} ({options.split})",
        speed=options.speed,
        render_backend=options.render_backend,
    )
    _console.print(
        f"wrote {recording.path}: {recording.num_frames} frames of {recording.width}x{recording.height} "
        f"at {float(recording.fps):g} per second, drawn with {recording.backend}"
    )
    return 0


def list_names(arguments: list[str]) -> int:
    """`metarl list`."""
    from metarl.listing import algorithms, environments

    @dataclass(frozen=True)
    class ListOptions:
        """Environments with their task parameters, algorithms and presets."""

        name: tyro.conf.Positional[str] = ""
        """Show this environment only."""

    options = _parse(ListOptions, "list", arguments)
    for title, rows in environments(options.name):
        _print_table(rows, title)
    if not options.name:
        _print_table(algorithms(), "algorithms")
    return 0


def doctor(arguments: list[str]) -> int:
    """`metarl doctor`."""
    from metarl.doctor import as_table, report

    @dataclass(frozen=True)
    class DoctorOptions:
        """What this machine can do, and how to get the rest."""

    _parse(DoctorOptions, "doctor", arguments)
    _console.print(as_table(report()))
    return 0


def _parse(cls: type[Options], command: str, arguments: Sequence[str], default: Options | None = None) -> Options:
    """Read options; a mistake becomes one line that says what is available."""
    complaint = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            config = (tyro.conf.FlagCreatePairsOff,)
            return tyro.cli(cls, prog=f"metarl {command}", args=list(arguments), config=config, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(_one_line(complaint.getvalue()) or f"see metarl {command} --help") from stop


def _one_line(box: str) -> str:
    """The text of tyro's framed message, without the frame."""
    lines = [re.sub(r"[│╭╮╰╯─]", "", line).strip() for line in box.splitlines()[1:]]
    return " ".join(line for line in lines if line)


def _peek(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option that decides how the others are read."""
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


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
    if asked is not None and run.config.settings.memory and asked > trained:
        _console.print(f"note: trials of {asked} episodes; {run.path} was trained on trials of {trained}.")
    return trained if asked is None else asked


def _print_table(rows: Sequence[Sequence[str]], title: str) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    for position, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if position == 0 else "right" if name[:1].islower() else "left")
    for row in rows[1:]:
        table.add_row(*row)
    _console.print(table)
