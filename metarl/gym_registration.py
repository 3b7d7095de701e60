"""Gymnasium ids of all environments, `metarl/ReachPlanar-v0` for `reach-planar`.

gymnasium 1.0 took its plug-in entry points away: importing the package that has the environments is
what registers them (`import metarl`, or `gymnasium.make("metarl:metarl/ReachPlanar-v0")`). So nothing
here loads torch or MuJoCo.
"""

from __future__ import annotations

import re

import gymnasium

import envs


def environment_id(name: str) -> str:
    """The gymnasium id of an environment's name: "half-cheetah-dir" -> "metarl/HalfCheetahDir-v0"."""
    return f"metarl/{''.join(part[:1].upper() + part[1:] for part in re.split('[^A-Za-z0-9]+', name))}-v0"


def register_environments() -> None:
    """Enter every environment into gymnasium's registry; those that are there already stay."""
    for name in envs.names():
        if environment_id(name) not in gymnasium.registry:
            gymnasium.register(
                id=environment_id(name),
                entry_point="metarl.gym_adapter:GymEnv",
                vector_entry_point="metarl.gym_adapter:GymVectorEnv",
                kwargs={"env": name},
            )
