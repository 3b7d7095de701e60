"""One small model on which every clause of the engine contract can be seen, and its engines."""

from __future__ import annotations

import mujoco
import torch

from metarl.env import Physics
from metarl.physics import Engine
from metarl.physics.batch_engine import BatchEngine

NUM_WORLDS = 6
NUM_SUBSTEPS = 4
DT_S = 0.005
GRAVITY = 9.81
CART_MASS_KG = 2.0
MODEL_FIELDS = (
    "body_mass",
    "body_inertia",
    "geom_friction",
    "actuator_delay",
    "actuator_gainprm",
    "opt.wind",
    "opt.density",
)
DATA_FIELDS = ("qpos", "qvel", "ctrl", "xpos", "xmat", "site_xpos", "site_xmat", "geom_xpos", "sensordata", "cfrc_ext")

XML = f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="{DT_S}" integrator="implicitfast" cone="elliptic" gravity="0 0 -{GRAVITY}"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1" friction="1 .005 .0001"/>
    <body name="puck" pos="0 0 .05">
      <joint name="puck_x" type="slide" axis="1 0 0"/>
      <joint name="puck_z" type="slide" axis="0 0 1"/>
      <geom name="puck" type="box" size=".05 .05 .05" mass="1" priority="1" friction=".5 .005 .0001"/>
      <site name="puck" type="box" size=".06 .06 .06"/>
    </body>
    <body name="cart" pos="0 1 1">
      <joint name="cart" type="slide" axis="1 0 0"/>
      <geom type="box" size=".1 .1 .1" mass="{CART_MASS_KG}"/>
      <body name="pole" pos="0 0 .1">
        <joint name="pole" type="hinge" axis="0 1 0" damping=".01"/>
        <geom type="capsule" fromto="0 0 0 0 0 .4" size=".02" mass=".1"/>
        <site name="tip" pos="0 0 .4"/>
      </body>
    </body>
    <body name="wall" mocap="true" pos="1 0 .1">
      <geom name="wall" type="capsule" size=".02 .1" friction="1 .005 .0001"/>
      <body name="door" pos="0 0 .3">
        <joint name="door" type="hinge" axis="1 0 0" damping=".05"/>
        <geom type="box" size=".01 .05 .1" pos="0 0 .12" mass=".2" contype="0" conaffinity="0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <general name="cart" joint="cart" gainprm="10" delay="0" nsample="9"/>
    <general name="door" joint="door" gainprm="1" dyntype="filter" dynprm=".05"/>
  </actuator>
  <sensor>
    <framepos objtype="site" objname="tip"/>
    <jointvel joint="pole"/>
    <accelerometer site="tip"/>
    <touch site="puck"/>
  </sensor>
</mujoco>
"""


def make_model(xml: str = XML) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(xml)


def make_physics(model: mujoco.MjModel | None = None, **changes: object) -> Physics:
    options = {"num_substeps": NUM_SUBSTEPS, "data_fields": DATA_FIELDS, "model_fields": MODEL_FIELDS}
    return Physics(model=model or make_model(), **(options | changes))  # type: ignore[arg-type]


def make_engine(kind: str, num_worlds: int = NUM_WORLDS, physics: Physics | None = None) -> Engine:
    physics = physics or make_physics()
    if kind == "batch":
        return BatchEngine(physics, num_worlds, num_threads=1)
    from metarl.physics.warp_engine import WarpEngine

    return WarpEngine(physics, num_worlds, torch.device("cpu"))


def per_world(engine: Engine, name: str) -> torch.Tensor:
    """The compiled value of a model field, repeated for every world."""
    default = engine.default_model_field(name)
    return default.expand(engine.num_worlds, *default.shape).clone()


def start_afresh(engine: Engine) -> Engine:
    """Undo whatever another test did to a shared engine."""
    for name in MODEL_FIELDS:
        engine.set_model_field(name, per_world(engine, name))
    engine.set_const()
    engine.reset()
    engine.forward()
    return engine


def set_parameters(engine: Engine, scale: torch.Tensor) -> None:
    """Masses, friction, delay, gain and wind that differ between worlds, for `scale` (N,) in [0.5, 2]."""
    model = engine.model
    mass, inertia = per_world(engine, "body_mass"), per_world(engine, "body_inertia")
    for name in ("cart", "puck", "door"):
        body = model.body(name).id
        mass[:, body] *= scale
        inertia[:, body] *= scale[:, None]
    engine.set_model_field("body_mass", mass)
    engine.set_model_field("body_inertia", inertia)
    friction = per_world(engine, "geom_friction")
    friction[:, model.geom("puck").id, 0] = 0.3 * scale
    engine.set_model_field("geom_friction", friction)
    delay = per_world(engine, "actuator_delay")
    delay[:, 0] = DT_S * torch.arange(engine.num_worlds).remainder(4)
    engine.set_model_field("actuator_delay", delay)
    gain = per_world(engine, "actuator_gainprm")
    gain[:, 0, 0] *= scale
    engine.set_model_field("actuator_gainprm", gain)
    engine.set_model_field("opt.density", 1.2 * scale)
    wind = per_world(engine, "opt.wind")
    wind[:, 0] = 3.0 * scale
    engine.set_model_field("opt.wind", wind)
    engine.set_const()


def snapshot(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: engine.data(name).clone() for name in DATA_FIELDS}
