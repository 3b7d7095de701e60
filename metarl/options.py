"""The options of each command, and how a mistake in them becomes one clear line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from metarl.errors import ConfigError, UnknownNameError, closest

Options = TypeVar("Options")

OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Run = Annotated[Path, tyro.conf.arg(metavar="RUN")]
Split = Annotated[str, tyro.conf.arg(metavar="SPLIT")]
Episodes = Annotated[int | None, tyro.conf.arg(metavar="INT")]
OptionalEnv = Annotated[str | None, tyro.conf.arg(metavar="ENV")]
Scale = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]

_KINDS = {"INT": "a whole number", "FLOAT": "a number"}


@dataclass(frozen=True)
class TrainOptions:
    """Meta-train an algorithm on an environment's task distribution."""

    algorithm: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ALGORITHM")]
    """Algorithm: see `metarl list`."""
    env: Annotated[str, tyro.conf.arg(metavar="ENV")]
    """Environment: see `metarl list`."""
    settings: tyro.conf.OmitArgPrefixes[Any]
    """Settings of the algorithm."""
    preset: str = "default"
    """Settings to start from: see `metarl list`."""
    out: OptionalPath = None
    """Run folder; default runs/ALGORITHM-ENV-seedSEED."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Go on with the run in the folder, from its newest whole checkpoint."""
    env_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Options of the environment, such as num_arms=10."""
    num_train_tasks: int = 0
    """Train on the first so many tasks of the split train alone; 0: on all, or fresh ones at every update."""
    torch_threads: int = 1
    """Threads of torch on the CPU."""
    physics_threads: int = 0
    """Threads of the CPU physics engine, 0 for all cores."""
    compile_env: bool = False
    """Compile the environment's functions with torch.compile: up to a minute at the start, then faster steps where they
    are many operations, as in driving."""
    checkpoint_interval_s: float = 60.0
    """Seconds between checkpoints."""
    keep_checkpoints: int = 3
    """Checkpoints to keep."""
    validate_every: int = 20
    """Updates between evaluations on the validation split, 0 for none."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Let a trained run adapt to unseen tasks, and say how well, episode by episode."""

    run: tyro.conf.Positional[Run]
    """Run folder, or one of its checkpoints."""
    env: OptionalEnv = None
    """Another environment, with observations and actions of the same shape, or signals that a learned loss can read;
    default: the run's own."""
    split: Split = "test"
    """Which tasks: train, validation, test, interpolation, extrapolation or a shift; `metarl list ENV` shows them."""
    num_tasks: int = 64
    """How many tasks."""
    episodes: Episodes = None
    """Episodes per trial, with an inner step between them for a gradient learner; default: as many as in training."""
    episodes_per_task: Episodes = None
    """Episodes on a task before each inner step of a gradient learner; default: as many as in training."""
    later_step_scale: Scale = None
    """Factor on inner steps beyond those that were meta-trained; default: as the run was trained with."""
    seed: int = 0
    """Seed of the tasks, the worlds' noise and sampled actions."""
    stochastic: bool = False
    """Sample actions instead of taking the likeliest, as gradient learners and some environments do anyway."""
    prototypes: bool = False
    """Also show context-rl when it is told the embedding of the nearest known task in place of the one it finds."""
    compare: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN ...")] = ()
    """Other runs on the same environment, to put beside this one."""
    json: OptionalPath = None
    """Where the numbers go; default RUN/evaluation.json, with --env RUN/evaluation-ENV.json."""
    plot: OptionalPath = None
    """Where the picture goes; default RUN/evaluation.png, with --env RUN/evaluation-ENV.png."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class CompareOptions:
    """Put runs on one picture: return against the environment steps that were spent on the new task."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")]
    """Run folders on the same environment, or checkpoints of theirs."""
    split: Split = "test"
    """Which tasks: train, validation, test, interpolation, extrapolation or a shift; `metarl list ENV` shows them."""
    num_tasks: int = 64
    """How many tasks."""
    episodes: Episodes = None
    """Episodes per trial, with an inner step between them for gradient learners; default: as many as in training."""
    later_step_scale: Scale = None
    """Factor on inner steps beyond those that were meta-trained; default: as the run was trained with."""
    scratch_steps: int = 0
    """Also train PPO from scratch for as many environment steps on each of a few tasks; 0: do not."""
    scratch_tasks: int = 4
    """How many tasks that is done on."""
    seed: int = 0
    """Seed of the tasks, the worlds' noise and sampled actions."""
    stochastic: bool = False
    """Sample actions instead of taking the likeliest, as gradient learners and some environments do anyway."""
    out: Path = Path("comparison.png")
    """The picture; an .svg and a .json lie beside it."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class RecordOptions:
    """Write a video of a trained run adapting to unseen tasks, side by side.

    A gradient learner is shown before adaptation and after its inner steps, one column each.
    """

    run: tyro.conf.Positional[Run]
    """Run folder, or one of its checkpoints."""
    split: Split = "test"
    """Which tasks: train, validation, test, interpolation, extrapolation or a shift; `metarl list ENV` shows them."""
    num_tasks: int = 4
    """Tasks to show."""
    episodes: Episodes = None
    """Episodes per trial, with an inner step between them for a gradient learner; default: as many as in training."""
    later_step_scale: Scale = None
    """Factor on inner steps beyond those that were meta-trained; default: as the run was trained with."""
    out: OptionalPath = None
    """The video; default videos/ALGORITHM-ENV.mp4."""
    seed: int = 0
    """Seed of the tasks and the worlds' noise."""
    speed: float = 1.0
    """1 plays in real time, 2 twice as fast."""
    stochastic: bool = False
    """Sample actions instead of taking the likeliest, as gradient learners and some environments do anyway."""
    render_backend: str = "auto"
    """auto, egl, osmesa, glfw or warp."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class ExplainOptions:
    """Show what a learned loss learned: one page with pictures, numbers and a formula."""

    run: tyro.conf.Positional[Run]
    """Run folder of learned-loss, or one of its checkpoints."""
    out: OptionalPath = None
    """Folder of the page; default RUN/explain."""
    num_tasks: int = 16
    """Training tasks that the loss is looked at on."""
    num_validation_tasks: int = 64
    """Validation tasks that formulas are tested on."""
    skip_formula: bool = False
    """Do not distil the loss into a formula, which takes most of the time."""
    seed: int = 0
    """Seed of the tasks, the policies and their noise."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class ListOptions:
    """Environments with their task parameters, algorithms and presets."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Show all about this environment or algorithm."""


@dataclass(frozen=True)
class DoctorOptions:
    """What this machine can do, and how to get the rest."""


def parse(cls: type[Options], command: str, arguments: Sequence[str], default: Options | None = None) -> Options:
    """Read the options of a command.

    Args:
        cls: the dataclass of its options.
        command: its name.
        arguments: what was typed after it.
        default: where the options start from, `cls`'s own defaults if None.

    Raises:
        ConfigError: an unknown option, a missing or wrong value; one line that says what to do.
        SystemExit: help was asked for and printed.
    """
    see = f"See metarl {command} --help."
    arguments = hyphenated(arguments)
    _refuse_unknown(arguments, set(_flags(cls if default is None else default)), see)
    complaint = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            options, unread = tyro.cli(cls, prog=f"metarl {command}", args=arguments, return_unknown_args=True, **given)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(f"{_sentence(complaint.getvalue(), arguments)} {see}") from stop
    if unread:
        raise ConfigError(f"unexpected argument {unread[0]!r}. {see}")
    return options


def hyphenated(arguments: Sequence[str]) -> list[str]:
    """The same arguments with --num_tasks written as --num-tasks."""
    split = [argument.partition("=") for argument in arguments]
    return ["".join((a.replace("_", "-") if a.startswith("--") else a, *rest)) for a, *rest in split]


def peek(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option that decides how the others are read; the last one counts."""
    value = None
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return value


def _flags(options: Any) -> Iterator[str]:
    """How the fields of an options record are typed: --name, and also --no-name for a switch, on or off as it is."""
    for field in fields(options):
        if "Positional" in str(field.type):
            continue
        value = getattr(options, field.name, MISSING)
        if is_dataclass(value):
            yield from _flags(value)
        else:
            name = field.name.replace("_", "-")
            yield f"--{name}"
            if isinstance(value, bool):
                yield f"--no-{name}"


def _refuse_unknown(arguments: Iterable[str], known: set[str], see: str) -> None:
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("-") and not re.match(r"-\.?\d", option) and option not in known | {"-h", "--help"}:
            hint = closest(option, known).replace("'", "")
            raise ConfigError(f"unrecognized option {option}.{hint} {see}")


def _sentence(box: str, arguments: Sequence[str]) -> str:
    """What tyro says in a frame of several sections, as one sentence about what was typed."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # without the frame's title
    sections = [[*part] for is_rule, part in groupby(lines, lambda line: not line.strip("-─╰╯")) if not is_rule]
    text = " ".join(sections[0]) if sections else box
    if missing := re.search(r"Missing from [^:]*: (\S+)", text):
        name = missing[1]
        where = "choose one from `metarl list`" if name in ("--env", "ALGORITHM") else "name it"
        return f"{name} is missing: {where}."
    if wrong := re.match(r"Error parsing (--[\w-]+):", text):
        option = wrong[1]
        metavar = next((line.split()[-1] for line in chain(*sections[1:]) if line.startswith(f"{option} ")), "")
        return f"{option} must be {_KINDS.get(metavar, metavar)}, got {peek(arguments, option)!r}."
    if choice := re.match(r"invalid choice '(.*)' for argument '--(\S+)'. Expected one of \((.*)\)", text):
        return str(UnknownNameError(choice[2], choice[1], re.findall(r"'([^']*)'", choice[3])))
    if none := re.match(r"Missing value for argument '(\S+)'", text):
        return f"{none[1]} needs a value."
    return text.removeprefix("Error parsing settings: ")
