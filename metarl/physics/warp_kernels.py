# mypy: ignore-errors
# warp compiles these functions from their source; Python's typing does not describe what it accepts.
"""The kernels of our own that run between those of mujoco_warp."""

import mujoco
import mujoco_warp as mjw
import warp as wp

_SOLVER_LIMITS = mjw.OverflowType.ITERATIONS | mjw.OverflowType.LS_ITERATIONS
_OVERFLOWS = wp.constant(int(mjw.OverflowType.ALL & ~_SOLVER_LIMITS))  # a solver that stops early is no failure
_MAX_VALUE = wp.constant(float(mujoco.mjMAXVAL))


@wp.func
def _is_bad(value: float):
    return not (wp.abs(value) <= _MAX_VALUE)  # true for NaN too


@wp.kernel
def flag_failed(
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc: wp.array2d[float],
    act: wp.array2d[float],
    ctrl: wp.array2d[float],
    mocap_pos: wp.array2d[wp.vec3],
    mocap_quat: wp.array2d[wp.quat],
    overflow: wp.array[int],
    failed: wp.array[bool],
):
    world = wp.tid()
    is_failed = (overflow[world] & _OVERFLOWS) != 0
    for i in range(qpos.shape[1]):
        is_failed = is_failed or _is_bad(qpos[world, i])
    for i in range(qvel.shape[1]):
        is_failed = is_failed or _is_bad(qvel[world, i]) or _is_bad(qacc[world, i])
    for i in range(act.shape[1]):
        is_failed = is_failed or _is_bad(act[world, i])
    for i in range(ctrl.shape[1]):
        is_failed = is_failed or _is_bad(ctrl[world, i])
    for i in range(mocap_pos.shape[1]):
        is_failed = is_failed or _is_bad(wp.length(mocap_pos[world, i])) or _is_bad(wp.length(mocap_quat[world, i]))
    if is_failed:
        failed[world] = True


@wp.kernel
def flag_overflow(overflow: wp.array[int], failed: wp.array[bool]):
    world = wp.tid()
    if (overflow[world] & _OVERFLOWS) != 0:
        failed[world] = True


@wp.kernel
def restore_sensors(is_restored: wp.array[bool], saved: wp.array2d[float], sensordata: wp.array2d[float]):
    world, column = wp.tid()
    if is_restored[column]:
        sensordata[world, column] = saved[world, column]


@wp.kernel
def clear_contact_forces(mask: wp.array[bool], cfrc_ext: wp.array2d[wp.spatial_vector]):
    """Forget the forces of the last step, which mjw.reset_data leaves where they are."""
    world, body = wp.tid()
    if mask[world]:
        cfrc_ext[world, body] = wp.spatial_vector()


@wp.kernel
def correct_body_invweight0(
    body_simple: wp.array[int],
    compiled: wp.array[wp.vec2],
    body_mass: wp.array2d[float],
    body_invweight0: wp.array2d[wp.vec2],
):
    """Give bodies the inverse weights of MuJoCo 4.0's mj_setConst, from which mjw.set_const departs twice.

    A body that only slides along its own axes weighs (1 / mass, 0). A body that cannot translate, or
    cannot rotate, keeps its zero, where mujoco_warp fills in the other of the two numbers.
    """
    world, body = wp.tid()
    weight = body_invweight0[world, body]
    if body_simple[body] == 2:
        weight = wp.vec2(1.0 / body_mass[world % body_mass.shape[0], body], 0.0)
    elif weight[0] == weight[1]:
        if compiled[body][0] == 0.0:
            weight = wp.vec2(0.0, weight[1])
        if compiled[body][1] == 0.0:
            weight = wp.vec2(weight[0], 0.0)
    body_invweight0[world, body] = weight
