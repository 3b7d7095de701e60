"""What there is to choose from, as rows of text: environments with their parameters, algorithms, presets."""

from __future__ import annotations

from metarl import learners
from metarl.env import EnvSpec
from metarl.tasks import Choice, Distribution, Normal, Parameter, Uniform
from metarl.types import Continuous

Rows = list[list[str]]


def environments(name: str = "") -> list[tuple[str, Rows]]:
    """A title and a table of task parameters for each environment, or for the named one.

    Raises:
        UnknownNameError: no such environment.
    """
    import envs

    return [_environment(envs.make_spec(n)) for n in ([name] if name else envs.names())]


def algorithms() -> Rows:
    """A row per algorithm: name, what it is, environments with presets of their own."""
    rows = [["algorithm", "what it is"]]
    return rows + [[name, learners.find(name).description] for name in learners.names()]


def _environment(spec: EnvSpec) -> tuple[str, Rows]:
    space = spec.action_space
    actions = f"{space.dim} continuous" if isinstance(space, Continuous) else f"{space.num_actions} discrete"
    body = f"{spec.physics.control_dt_s * 1000:g} ms per step" if spec.physics else "no body"
    presets = ", ".join(learners.preset_names("rl2", spec.name))
    title = (
        f"{spec.name}: {spec.description}\n"
        f"{spec.obs_dim} observations, {actions} actions, {spec.horizon} steps, {body}; "
        f"splits {', '.join(spec.tasks.splits())}; presets {presets}"
    )
    rows = [["task parameter", "Unit", "Train", "Interpolation", "Extrapolation", "What it is"]]
    return title, rows + [_parameter(p) for p in spec.tasks.parameters]


def _parameter(parameter: Parameter) -> list[str]:
    shape = "x".join(str(n) for n in parameter.shape)
    name = f"{parameter.name} ({shape})" if shape else parameter.name
    train, hole, shell = _ranges(parameter.distribution)
    return [name, parameter.unit, train, hole, shell, parameter.description]


def _ranges(distribution: Distribution) -> tuple[str, str, str]:
    if isinstance(distribution, Uniform):
        log = " log" if distribution.log else ""
        hole = _interval(distribution.hole) if distribution.hole else "-"
        shell = " ".join(_interval(part) for part in distribution.shell) or "-"
        return _interval((distribution.low, distribution.high)) + log, hole, shell
    if isinstance(distribution, Choice):
        return "one of " + ", ".join(f"{v:g}" for v in distribution.values), "-", "-"
    if isinstance(distribution, Normal):
        return f"normal, mean {distribution.mean:g}, std {distribution.std:g}", "-", "-"
    return "flat on the simplex", "-", "-"


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:g}, {bounds[1]:g}]"
