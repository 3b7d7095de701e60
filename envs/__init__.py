"""Environments by name: one explicit table, extended by the entry-point group `metarl.environments`.

Names are known without torch or MuJoCo being loaded, so that `metarl --help` and gymnasium's registry are quick.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from envs.metaworld import CLASSES

if TYPE_CHECKING:
    import torch

    from metarl.worlds import Spec, Worlds

ENVIRONMENTS: dict[str, str] = {
    "bandit": "envs.toy.bandit:make_spec",
    "tabular-mdp": "envs.toy.tabular_mdp:make_spec",
    "point-navigation": "envs.toy.point_navigation:make_spec",
    "point-robot-pearl": "envs.toy.point_robot:make_pearl",
    "sparse-point-pearl": "envs.toy.point_robot:make_sparse_pearl",
    "sparse-point-varibad": "envs.toy.point_robot:make_sparse_varibad",
    "grid-navi": "envs.toy.grid_navi:make_spec",
    "reach-robots": "envs.toy.reach_robots:make_spec",
    "reach-either": "envs.toy.reach_either:make_spec",
    "reach-planar": "envs.manipulation.reach_planar:make_spec",
    "reach": "envs.manipulation.reach:make_spec",
    "push": "envs.manipulation.push:make_spec",
    "grasp": "envs.manipulation.grasp:make_spec",
    "door-open": "envs.manipulation.door:make_open",
    "door-close": "envs.manipulation.door:make_close",
    "drawer-open": "envs.manipulation.drawer:make_open",
    "drawer-close": "envs.manipulation.drawer:make_close",
    "button": "envs.manipulation.button:make_spec",
    "lever": "envs.manipulation.lever:make_spec",
    "window": "envs.manipulation.window:make_spec",
    "families": "envs.manipulation.families:make_spec",
    "track": "envs.driving.track:make_spec",
    "track-wheels": "envs.driving.track_wheels:make_spec",
    "traffic": "envs.driving.traffic:make_spec",
    "park": "envs.driving.park:make_spec",
    "surface-shift": "envs.driving.surface_shift:make_spec",
    "payload": "envs.driving.payload:make_spec",
    "half-cheetah-vel-maml": "envs.locomotion.half_cheetah:make_vel_maml",
    "half-cheetah-vel-pearl": "envs.locomotion.half_cheetah:make_vel_pearl",
    "half-cheetah-vel-promp": "envs.locomotion.half_cheetah:make_vel_promp",
    "half-cheetah-vel-roml": "envs.locomotion.half_cheetah:make_vel_roml",
    "half-cheetah-dir": "envs.locomotion.half_cheetah:make_dir",
    "half-cheetah-crippled": "envs.locomotion.cheetah_dynamics:make_crippled",
    "half-cheetah-gravity": "envs.locomotion.cheetah_dynamics:make_gravity",
    "half-cheetah-terrain": "envs.locomotion.cheetah_terrain:make_spec",
    "ant-dir-maml": "envs.locomotion.ant:make_dir_maml",
    "ant-vel": "envs.locomotion.ant:make_vel",
    "ant-dir-pearl": "envs.locomotion.ant:make_dir_pearl",
    "ant-dir-promp": "envs.locomotion.ant:make_dir_promp",
    "ant-dir-varibad": "envs.locomotion.ant:make_dir_varibad",
    "ant-dir-2d": "envs.locomotion.ant:make_dir_2d",
    "ant-goal": "envs.locomotion.ant_goal:make_goal",
    "ant-goal-maml": "envs.locomotion.ant_goal:make_goal_maml",
    "ant-crippled": "envs.locomotion.ant_crippled:make_spec",
    "humanoid-dir": "envs.locomotion.humanoid:make_dir",
    "humanoid-dir-promp": "envs.locomotion.humanoid:make_dir_promp",
    "walker-vel": "envs.locomotion.walker_vel:make_spec",
    "walker-rand-params": "envs.locomotion.rand_params:make_walker",
    "hopper-rand-params": "envs.locomotion.rand_params:make_hopper",
    "metaworld-ml10": "envs.metaworld.benchmarks:make_ml10",
    "metaworld-ml45": "envs.metaworld.benchmarks:make_ml45",
    **{f"metaworld-ml1-{name}": f"envs.metaworld.benchmarks:make_ml1:{name}" for name in CLASSES},
}
"""Name -> "module:function"; the function takes the environment's options and returns an `EnvSpec` or a `ProcessSpec`.
"module:function:member" is one of a family: the function takes the member as its first argument."""


OWN = [name for name, factory in ENVIRONMENTS.items() if not factory.startswith("envs.metaworld")]
"""Names of the environments that are defined here; the others are Meta-World's and need its package."""

_REGISTERED: dict[str, Callable[..., Spec]] = {}


def register(name: str, factory: Callable[..., Spec]) -> None:
    """Make an environment of your own known by name in this process.

    A package makes its environments known to every process by the entry-point group `metarl.environments`.

    Args:
        name: how users type it; takes the place of an environment of the same name.
        factory: returns an `EnvSpec` or a `ProcessSpec`; its keyword arguments are the environment's options.
    """
    _REGISTERED[name] = factory


def names() -> list[str]:
    """The names of all environments, registered and third-party ones included."""
    others = (entry.name for entry in entry_points(group="metarl.environments"))
    return list(dict.fromkeys([*ENVIRONMENTS, *_REGISTERED, *others]))


def families(among: Iterable[str]) -> dict[str, list[str]]:
    """Names with those of a family put together: {"track": [], "metaworld-ml1-*": ["assembly", ...], ...}."""
    found: dict[str, list[str]] = {}
    for name in among:
        _, _, *member = ENVIRONMENTS.get(name, "::").split(":") if name not in _REGISTERED else ("", "")
        if any(member):
            found.setdefault(f"{name.removesuffix(member[0])}*", []).extend(member)
        else:
            found[name] = []
    return found


def make_spec(name: str, **options: Any) -> Spec:
    """Make the specification of an environment.

    Args:
        name: one of `names()`.
        **options: keyword arguments of the environment's factory, such as `num_arms=10` for `bandit`.

    Raises:
        UnknownNameError: no such environment, or no such option.
        ConfigError: an option's value is of another type than its default.
    """
    from metarl.errors import ConfigError, UnknownNameError  # metarl imports this module to register its names

    factory = _factory(name)
    known = inspect.signature(factory).parameters
    for option, value in options.items():
        if option not in known:
            raise UnknownNameError(f"option of {name}", option, known)
        expected, got = type(known[option].default), type(value)
        if expected in (bool, int, float, str) and got is not expected and (expected, got) != (float, int):
            raise ConfigError(f"option {option} of {name} must be of type {expected.__name__}, got {value!r}.")
    return factory(**options)


def make(name: str, num_worlds: int, *, device: str | torch.device = "cpu", seed: int = 0, **options: Any) -> Worlds:
    """Make `num_worlds` worlds of an environment; see `metarl.worlds.make_worlds`."""
    from metarl.worlds import make_worlds

    return make_worlds(make_spec(name, **options), num_worlds, device=device, seed=seed)


def _factory(name: str) -> Callable[..., Spec]:
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in ENVIRONMENTS:
        module, function, *member = ENVIRONMENTS[name].split(":")
        return partial(getattr(import_module(module), function), *member)
    for entry in entry_points(group="metarl.environments"):
        if entry.name == name:
            return entry.load()
    from metarl.errors import UnknownNameError

    raise UnknownNameError("environment", name, names(), shown=families(names()))
