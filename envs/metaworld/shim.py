"""What it takes to run the package `metaworld` 3.1.1, made for MuJoCo 3.3.0, on MuJoCo 4.

The package pins mujoco==3.3.0, so it is installed without its dependencies; gymnasium and scipy, all else that it
imports, are ours anyway. It breaks on MuJoCo 4 in one place: `SawyerMocapBase.reset_mocap_welds` writes the 11 numbers
of a weld, of which there are 12 now. The twelfth says whether the relative pose of the two bodies is to be taken from
the model at compile time (1) or is given (0, as here); nothing reads it afterwards.

`SawyerXYZEnv.touching_object` is replaced too, only because it took up to a third of a step: it read every contact of
the scene as an object of its own.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from metarl.errors import SpecError

VERSION = "3.1.1"
INSTALL = f"pip install --no-deps metaworld=={VERSION}"
WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)
"""A mocap weld: anchor (3), relative position (3), relative quaternion (4), scale of torques."""


@cache
def load() -> ModuleType:
    """Import the package and mend it.

    Raises:
        SpecError: it is missing, or of another version; the message says what to install.
    """
    try:
        installed = version("metaworld")
    except PackageNotFoundError as error:
        raise SpecError(f"Meta-World needs the package metaworld: {INSTALL}") from error
    if installed != VERSION:
        raise SpecError(f"Meta-World needs metaworld {VERSION}, not {installed}: {INSTALL}")
    import metaworld
    import mujoco

    num_numbers = mujoco.mjNEQDATA
    if num_numbers not in (11, 12):
        raise SpecError(
            f"Meta-World is not known to run on MuJoCo {mujoco.__version__}: a weld has {num_numbers} numbers."
        )
    weld = WELD + (0.0,) * (num_numbers - len(WELD))

    def reset_mocap_welds(env: Any) -> None:
        if env.model.nmocap > 0:
            env.model.eq_data[env.model.eq_type == mujoco.mjtEq.mjEQ_WELD] = weld

    metaworld.sawyer_xyz_env.SawyerMocapBase.reset_mocap_welds = reset_mocap_welds
    metaworld.sawyer_xyz_env.SawyerXYZEnv.touching_object = touching_object
    return metaworld


def touching_object(env: Any, object_geom_id: int) -> bool:
    """Whether both pads of the gripper press against a geom."""
    contact, force = env.data.contact, env.data.efc_force
    of_object = (contact.geom == object_geom_id).any(1)
    of_pads = [(contact.geom == env.data.geom(pad).id).any(1) for pad in ("leftpad_geom", "rightpad_geom")]
    return all(force[contact.efc_address[of_object & of_pad]].sum() > 0 for of_pad in of_pads)
