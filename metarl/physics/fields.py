"""Which fields of the model may differ between the worlds of a batch, on both engines alike."""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np
from torch import Tensor

from metarl.errors import EngineError
from metarl.physics.engine import unknown_field

_ATTRIBUTES = {
    "body": "pos quat ipos iquat mass subtreemass inertia invweight0 gravcomp",
    "jnt": "solref solimp pos axis stiffness stiffnesspoly springyield range actfrcrange margin",
    "dof": "solref solimp frictionloss armature damping dampingpoly invweight0",
    "geom": (
        "dataid matid solmix solref solimp size aabb rbound pos quat friction margin gap surfacevel adhesion rgba"
    ),
    "site": "pos quat",
    "cam": "pos quat poscom0 pos0 mat0 fovy intrinsic",
    "light": "type castshadow active pos dir poscom0 pos0 dir0 attenuation cutoff exponent ambient diffuse specular",
    "mat": "texid texuniform texrepeat emission specular shininess rgba",
    "pair": "solref solreffriction solimp margin gap adhesion friction",
    "eq": "solref solimp data",
    "tendon": (
        "solref_lim solimp_lim solref_fri solimp_fri range actfrcrange margin stiffness stiffnesspoly damping "
        "dampingpoly armature frictionloss lengthspring springyield length0 invweight0"
    ),
    "actuator": (
        "cranklength dynprm gainprm biasprm actrange delay damping dampingpoly armature forcerange ctrlrange "
        "gear acc0 lengthrange"
    ),
    "sensor": "delay interval",
    "opt": (
        "timestep tolerance ls_tolerance noslip_tolerance ccd_tolerance sleep_tolerance gravity wind magnetic "
        "density viscosity"
    ),
}

MODEL_FIELDS = frozenset(
    {"qpos0", "qpos_spring"}
    | {f"{kind}_{name}" for kind, names in _ATTRIBUTES.items() if kind != "opt" for name in names.split()}
    | {f"opt.{name}" for name in _ATTRIBUTES["opt"].split()}
)
"""What `Physics.model_fields` may name: the fields that mujoco_warp keeps per world.

mujoco.batch could vary more of them (contype, structure), but such an environment would not run on a GPU.
"""

DERIVED_FIELDS = (
    "body_subtreemass",
    "body_invweight0",
    "dof_invweight0",
    "geom_aabb",
    "geom_rbound",
    "tendon_length0",
    "tendon_invweight0",
    "actuator_acc0",
    "eq_data",
    "cam_pos0",
    "cam_poscom0",
    "cam_mat0",
    "light_pos0",
    "light_poscom0",
    "light_dir0",
)
"""What `set_const` writes: per world as soon as anything that it reads is per world."""


def check_model_fields(names: Iterable[str]) -> None:
    """Raise an EngineError unless every name is in `MODEL_FIELDS`."""
    for name in names:
        if name not in MODEL_FIELDS:
            if name.removeprefix("opt.") in _ATTRIBUTES["opt"].split():
                raise EngineError(f"model field {name!r} is an option: name it {'opt.' + name!r}.")
            if hasattr(mujoco.MjModel, name) or (name.startswith("opt.") and hasattr(mujoco.MjOption, name[4:])):
                raise EngineError(f"model field {name!r} cannot differ between worlds on both engines.")
            raise unknown_field("model field", name, MODEL_FIELDS)


def check_fixtures(model: mujoco.MjModel, name: str, value: Tensor, default: Tensor) -> None:
    """Raise an EngineError if a model field moves something static: mujoco_warp would leave its geoms in place.

    Args:
        model: the compiled model.
        name: the field; only positions and orientations of geoms and bodies matter.
        value: (N, n, 3 or 4).
        default: (n, 3 or 4), the compiled value.
    """
    kind, _, attribute = name.partition("_")
    if kind not in ("geom", "body") or attribute not in ("pos", "quat"):
        return
    body = model.geom_bodyid if kind == "geom" else np.arange(model.nbody)
    is_static = (model.body_weldid[body] == 0) & (model.body_mocapid[model.body_rootid[body]] < 0)
    moved = (value != default).any(-1).any(0).cpu().numpy() & is_static
    if moved.any():
        names = [getattr(model, kind)(int(i)).name or f"{kind} {i}" for i in np.flatnonzero(moved)]
        raise EngineError(
            f"model field {name!r} moves static things {names}, which mujoco_warp would leave in place. "
            'Put them on a body with mocap="true" and write mocap_pos and mocap_quat.'
        )
