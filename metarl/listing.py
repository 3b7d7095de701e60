"""What there is to choose from, as text: environments with their parameters, algorithms, presets."""

from __future__ import annotations

import textwrap

import envs
from metarl import learners
from metarl.errors import UnknownNameError
from metarl.fewshot import listing as fewshot_listing
from metarl.tasks import Choice, Distribution, Normal, Parameter, TaskDistribution, Uniform
from metarl.types import Continuous
from metarl.worlds import ProcessSpec, Spec


def overview(width: int = 80) -> str:
    """All environments and algorithms, a few lines each.

    Args:
        width: characters per line.
    """
    blocks = [_family(name, members, width) for name, members in envs.families(envs.names()).items()]
    lines = [_wrapped(f"{name}: {learners.find(name).description}", width) for name in learners.names()]
    few_shot = [
        part
        for section, entries in fewshot_listing.overview().items()
        for part in (section, "\n".join(_wrapped(entry, width) for entry in entries))
    ]
    more = _wrapped("`metarl list NAME` shows all about an environment, an algorithm, a data set or a learner.", width)
    return "\n\n".join(["ENVIRONMENTS", *blocks, "ALGORITHMS", "\n".join(lines), *few_shot, more])


def details(name: str, width: int = 80) -> str:
    """An environment with the ranges of its task parameters, an algorithm or few-shot learner with its presets, or a
    data set with its options; both where an algorithm and a few-shot learner share a name.

    Raises:
        UnknownNameError: nothing has this name.
    """
    if name in envs.names():
        spec = envs.make_spec(name)
        parameters = [_parameter(parameter, width) for parameter in spec.tasks.parameters]
        return "\n".join([_environment(spec, width), "", *parameters, *_shifts(spec.tasks, width)])
    found = []
    if name in learners.names():
        found.append(_algorithm(name, width))
    if name in fewshot_listing.names():
        found.append("\n".join(_indented(line, width) for line in fewshot_listing.details(name)))
    if found:
        return "\n\n".join(found)
    few_shot = fewshot_listing.names()
    known = [*envs.names(), *learners.names(), *few_shot]
    shown = [*envs.families(envs.names()), *dict.fromkeys([*learners.names(), *few_shot])]
    raise UnknownNameError("environment, algorithm, data set or learner", name, known, shown=shown)


def _algorithm(name: str, width: int) -> str:
    """An algorithm with its presets."""
    families = envs.families(envs.names()).items()
    presets = [f"{env}: {', '.join(learners.preset_names(name, _member(env, of)))}" for env, of in families]
    lines = [_wrapped(line, width, "  ") for line in ["presets", *(f"  {preset}" for preset in presets)]]
    return "\n".join([_wrapped(f"{name}: {learners.find(name).description}", width), *lines])


def _indented(line: str, width: int) -> str:
    """A line of which the spaces in front say how deep it is."""
    text = line.lstrip()
    return _wrapped(text, width, line[: len(line) - len(text)])


def _family(name: str, members: list[str], width: int) -> str:
    """An environment, or one block for all members of a family."""
    block = _environment(envs.make_spec(_member(name, members)), width, name)
    return "\n".join([block, _wrapped(f"  * is one of {', '.join(members)}", width, "  ")]) if members else block


def _member(name: str, members: list[str]) -> str:
    """A name that can be made: itself, or the first of its family."""
    return name.replace("*", members[0]) if members else name


def _environment(spec: Spec, width: int, name: str = "") -> str:
    space = spec.action_space
    actions = f"{space.dim} continuous" if isinstance(space, Continuous) else f"{space.num_actions} discrete"
    timed = spec.body if isinstance(spec, ProcessSpec) else spec.physics
    body = f"{timed.control_dt_s * 1000:g} ms per step" if timed else "no body"
    presets = ", ".join(learners.preset_names("rl2", spec.name))
    return "\n".join(
        [
            _wrapped(f"{name or spec.name}: {spec.description}", width),
            *(
                _wrapped(line, width, "  ")
                for line in (
                    f"{spec.obs_dim} observations, {actions} actions, {spec.horizon} steps, {body}",
                    f"task parameters: {', '.join(p.name for p in spec.tasks.parameters)}",
                    f"splits: {', '.join(spec.tasks.splits())}",
                    f"presets: {presets}",
                )
            ),
        ]
    )


def _parameter(parameter: Parameter, width: int) -> str:
    """Two lines: name, shape, unit and meaning; where training and the held-out splits draw it."""
    shape = " " + "x".join(str(n) for n in parameter.shape) if parameter.shape else ""
    unit = "" if parameter.unit == "1" else f" [{parameter.unit}]"
    meaning = f": {parameter.description}" if parameter.description else ""
    drawn = "; ".join(f"{split} {values}" for split, values in ranges(parameter.distribution).items())
    head = _wrapped(f"{parameter.name}{shape}{unit}{meaning}", width, "  ")
    return f"{head}\n{_wrapped(drawn, width, '      ')}"


def ranges(distribution: Distribution) -> dict[str, str]:
    """Where training and the held-out splits draw a parameter, {split: values}, training first."""
    if isinstance(distribution, Uniform):
        ranges = {"train": _interval((distribution.low, distribution.high)) + (" log" if distribution.log else "")}
        if distribution.hole:
            ranges["interpolation"] = _interval(distribution.hole)
        if distribution.shell:
            ranges["extrapolation"] = " ".join(_interval(part) for part in distribution.shell)
        return ranges
    if isinstance(distribution, Choice):
        ranges = {"train": _one_of(distribution.values)}
        if distribution.held_out:
            ranges["extrapolation"] = _one_of(distribution.held_out)
        return ranges
    if isinstance(distribution, Normal):
        return {"train": f"normal, mean {distribution.mean:g}, std {distribution.std:g}"}
    return {"train": "flat on the simplex"}


def _shifts(tasks: TaskDistribution, width: int) -> list[str]:
    """The splits that extrapolate in some parameters only, below a blank line."""
    if not tasks.shifts:
        return []
    lines = [f"  {split}: extrapolation in {' or '.join(names)}" for split, names in tasks.shifts.items()]
    return ["", *(_wrapped(line, width, "  ") for line in ["shifts", *lines])]


def _one_of(values: tuple[float, ...]) -> str:
    return ("one of " if len(values) > 1 else "") + ", ".join(f"{v:g}" for v in values)


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:g},\N{NO-BREAK SPACE}{bounds[1]:g}]"


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """Lines of at most `width` characters, the second and later ones set in; long words are not cut."""
    deeper = indent + " " * (len(text) - len(text.lstrip()) + 2)
    lines = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=deeper, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
