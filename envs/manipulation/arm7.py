"""The arm of all manipulation environments: seven joints, a two-finger gripper, built of capsules with MjSpec.

The base stands at the origin of a table whose top is the plane z = 0; x points forwards, away from the base. The arm
is weightless (gravity compensation) and follows joint targets by position servos, kp (q_target - q) - kv dq/dt,
clipped at a peak torque. At home, `HOME_RAD` from upright, the hand points down over the middle of the table, its
fingers open along y. Joint positions are measured from there: home is zero, so that servos hold it until they hear
their first command, however late that comes.

    joint  0 base yaw   1 shoulder pitch   2 upper arm roll   3 elbow pitch   4 forearm roll   5 wrist pitch   6 flange
    joint  7, 8 fingers, 0 open .. -0.045 m closed; an equality constraint keeps both at the same opening
    site   0 `tcp`      where the controller believes the hand to be: on the flange, 14 cm in front of it
    site   1 `pinch`    the middle between the pads; differs from `tcp` by a wrong mounting of the hand only
    sensor 0-2          velocity of `tcp`, m/s

Only the hand collides: a palm, and two capsules per finger, because contacts of capsules with boxes, capsules and
planes are the same in both engines (those of two boxes are not). It does not collide with itself. Objects collide
with the hand, the table and each other by MuJoCo's defaults (contype 1, conaffinity 1).

The arm is added to a scene first, so that the ids above hold in every model; `compile_scene` checks it.
"""

from __future__ import annotations

import math

import mujoco

from metarl.errors import SpecError

NUM_ARM_JOINTS, NUM_JOINTS = 7, 9
"""Joints of the arm, and with the two fingers; positions, velocities and actuators have the same numbers."""
TCP, PINCH = 0, 1
"""Sites."""
TCP_VELOCITY = slice(0, 3)
"""Numbers of sensordata."""
HAND, FINGERS = "hand", ("finger_left", "finger_right")
"""Bodies of the gripper."""

SHOULDER_M, UPPER_ARM_M, FOREARM_M = 0.34, 0.45, 0.45
WRIST_M, HAND_M, TCP_M = 0.05, 0.03, 0.14
"""Wrist pitch to flange; flange to hand; flange to tcp."""
FINGER_TRAVEL_M = 0.045
FINGER_OPEN_M, FINGER_CLOSED_M = 0.0, -0.05
"""Targets of a finger; the closed one lies 5 mm behind the other finger, so that a small object is squeezed, too."""
FINGERTIP_M = 0.012
"""How far the fingers reach beyond tcp and pinch."""
GRIP_FORCE_N = 20.0
"""Largest force of each finger."""
HOME_RAD = (0.0, 0.4926, 0.0, 1.9568, 0.0, 0.6922, 0.0)
"""Where all joint positions are zero, measured from the upright arm."""
HOME_TCP_M = (0.5, 0.0, 0.2)
TIMESTEP_S, NUM_SUBSTEPS = 0.005, 4

_AXES = ((0, 0, 1), (0, 1, 0), (0, 0, 1), (0, 1, 0), (0, 0, 1), (0, 1, 0), (0, 0, 1))
_UPRIGHT_RANGES_RAD = ((-2.7, 2.7), (-0.9, 2.0), (-2.7, 2.7), (0.05, 2.8), (-2.7, 2.7), (-1.2, 2.8), (-2.9, 2.9))
_RANGES_RAD = tuple((low - home, high - home) for (low, high), home in zip(_UPRIGHT_RANGES_RAD, HOME_RAD, strict=True))
_OFFSETS_M = (0.16, SHOULDER_M - 0.16, 0.2, UPPER_ARM_M - 0.2, 0.2, FOREARM_M - 0.2, WRIST_M)
_LINK_RADIUS_M = (0.055, 0.05, 0.045, 0.043, 0.038, 0.034, 0.03)
_LINK_MASS_KG = (1.0, 0.7, 0.5, 0.5, 0.35, 0.2, 0.1)
_ARMATURE = (0.1, 0.1, 0.08, 0.08, 0.03, 0.03, 0.02)  # kg m^2
_STIFFNESS = (800.0, 800.0, 600.0, 600.0, 200.0, 200.0, 100.0)  # N m/rad
_DAMPING_TIME_S = 0.05  # kv / kp
_PEAK_TORQUE_NM = (120.0, 120.0, 80.0, 80.0, 30.0, 30.0, 15.0)
_PAD_RADIUS_M, _PAD_X_M = 0.008, 0.01

_ROBOT_CONTACT = {"contype": 2, "conaffinity": 1}
_NO_CONTACT = {"contype": 0, "conaffinity": 0}


def new_scene(max_delay_s: float = 0.0) -> mujoco.MjSpec:
    """A table with the arm, ready for objects and fixtures; see `decorate` for looks.

    Args:
        max_delay_s: the longest control delay that a task may set (`actuator_delay`), 0 for none.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone, option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 10.0
    option.iterations = 20
    world = spec.worldbody
    world.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.6, 0.62, 0.05], pos=[0.35, 0, 0])
    _add_arm(spec, max_delay_s)
    return spec


def compile_scene(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """Compile a scene and check that the arm comes first, which the ids of this module rely on."""
    model = spec.compile()
    joints = [model.joint(i).name for i in range(min(NUM_JOINTS, model.njnt))]
    sites = [model.site(i).name for i in (TCP, PINCH) if i < model.nsite]
    if joints != [*_joint_names(), *FINGERS] or sites != ["tcp", "pinch"] or model.nu != NUM_JOINTS:
        raise SpecError(f"a scene starts with the arm (`new_scene`), got joints {joints} and sites {sites} first.")
    return model


def _joint_names() -> list[str]:
    return [f"joint{i}" for i in range(NUM_ARM_JOINTS)]


def _add_arm(spec: mujoco.MjSpec, max_delay_s: float) -> None:
    body = spec.worldbody
    for i, name in enumerate(_joint_names()):
        turn = [math.cos(HOME_RAD[i] / 2), *(math.sin(HOME_RAD[i] / 2) * a for a in _AXES[i])]
        body = body.add_body(name=f"link{i}", pos=[0, 0, _OFFSETS_M[i]], quat=turn, gravcomp=1.0)
        body.add_joint(name=name, axis=_AXES[i], range=_RANGES_RAD[i], armature=_ARMATURE[i], damping=[0.5, 0, 0])
        length = _OFFSETS_M[i + 1] if i + 1 < NUM_ARM_JOINTS else HAND_M
        _add_link(body, i, length)
    body.add_site(name="tcp", pos=[0, 0, TCP_M])
    _add_hand(body.add_body(name=HAND, pos=[0, 0, HAND_M], gravcomp=1.0))
    spec.add_sensor(
        name="tcp_velocity",
        type=mujoco.mjtSensor.mjSENS_FRAMELINVEL,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname="tcp",
    )
    coupling = spec.add_equality(name="fingers", type=mujoco.mjtEq.mjEQ_JOINT, name1=FINGERS[0], name2=FINGERS[1])
    coupling.objtype = mujoco.mjtObj.mjOBJ_JOINT
    coupling.data[:5] = [0, 1, 0, 0, 0]
    coupling.solref = [0.01, 1.0]
    for i, name in enumerate(_joint_names()):
        kp = _STIFFNESS[i]
        _add_servo(spec, name, kp, _DAMPING_TIME_S * kp, _RANGES_RAD[i], _PEAK_TORQUE_NM[i], max_delay_s)
    for name in FINGERS:
        _add_servo(spec, name, 3000.0, 0.0, (FINGER_CLOSED_M, FINGER_OPEN_M), GRIP_FORCE_N, max_delay_s)


def _add_link(body: mujoco.MjsBody, i: int, length: float) -> None:
    """A capsule from this joint to the next."""
    radius = _LINK_RADIUS_M[i]
    body.add_geom(
        name=f"link{i}",
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[0, 0, 0, 0, 0, length],
        size=[radius, 0, 0],
        mass=_LINK_MASS_KG[i],
        **_NO_CONTACT,
    )


def _add_hand(hand: mujoco.MjsBody) -> None:
    capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
    hand.add_site(name="pinch", pos=[0, 0, TCP_M - HAND_M])
    hand.add_geom(
        name="palm", type=capsule, fromto=[0, -0.05, 0, 0, 0.05, 0], size=[0.022, 0, 0], mass=0.2, **_ROBOT_CONTACT
    )
    for name, side in zip(FINGERS, (1.0, -1.0), strict=True):
        finger = hand.add_body(name=name, pos=[0, side * FINGER_TRAVEL_M, 0.03], gravcomp=1.0)
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, side, 0],
            range=[-FINGER_TRAVEL_M, 0.0],
            armature=0.1,
            damping=[30.0, 0, 0],
        )
        reach = TCP_M - HAND_M - 0.03 + FINGERTIP_M - _PAD_RADIUS_M  # of the middle of the tip's sphere
        for suffix, x in (("front", -_PAD_X_M), ("back", _PAD_X_M)):  # the hand points down: its x is the world's -x
            finger.add_geom(
                name=f"{name}_{suffix}",
                type=capsule,
                fromto=[x, side * _PAD_RADIUS_M, 0.0, x, side * _PAD_RADIUS_M, reach],
                size=[_PAD_RADIUS_M, 0, 0],
                mass=0.02,
                **_ROBOT_CONTACT,
            )


def _add_servo(
    spec: mujoco.MjSpec,
    joint: str,
    kp: float,
    kv: float,
    ctrl_range: tuple[float, float],
    peak: float,
    max_delay_s: float,
) -> None:
    servo = spec.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gaintype=mujoco.mjtGain.mjGAIN_FIXED,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        ctrllimited=True,
        ctrlrange=ctrl_range,
        forcelimited=True,
        forcerange=(-peak, peak),
    )
    servo.gainprm[0] = kp
    servo.biasprm[:3] = [0.0, -kp, -kv]
    if max_delay_s > 0:
        servo.nsample = math.ceil(max_delay_s / TIMESTEP_S) + 2
