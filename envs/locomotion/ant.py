"""ant-dir-maml, ant-vel, ant-dir-promp, ant-dir-pearl, ant-dir-varibad, ant-dir-2d: an ant runs a hidden way or speed.

In the literature one name hides several tasks; these are six of them, each as its authors' code has it. All begin at
the origin and have eight motors, 200 control steps, no success criterion, no interpolation hole (the literature trains
on the whole range), and the cost of contacts -5e-4 c.

                  TASK PARAMETER               REWARD, besides -5e-4 c             END, height z       OBSERVATION
ant-dir-maml      direction -1 or 1            direction v_x - 0.005 a + 0.05      z not in [0.2, 1]   125 numbers
ant-vel           velocity (m/s) U[0, 3]       1 - |v_x - velocity|                z not in [0.2, 1]   125
                  extrapolation (3, 4)         - 0.005 a + 0.05
ant-dir-promp     direction -1 or 1            direction v_x - 0.5 a + 1           z not in [0, 1]     111
ant-dir-pearl     angle (rad) U[0, 2 pi]       v . (cos, sin of angle) - 0.5 a + 1 z not in [0.2, 1]   27
ant-dir-varibad   angle -1 or 1 (rad)          as ant-dir-pearl                    z not in [0.2, 1]   27
ant-dir-2d        angle (rad) U[0, 2 pi]       as ant-dir-pearl                    z not in [0, 1]     111

                  SOURCE                       CONTROL STEP, VELOCITY v AND START
ant-dir-maml      cbfinn/maml_rl               0.02 s, v of the robot's centre of mass; crouching, + 0.01 N(0, 1) on
ant-vel           cbfinn/maml_rl               positions, 0.1 N(0, 1) on velocities
ant-dir-promp     jonasrothfuss/ProMP          0.05 s, v the displacement of the torso over the step; as in the file,
ant-dir-pearl     katerakelly/oyster           + U(-0.1, 0.1) on positions, 0.1 N(0, 1) on velocities
ant-dir-varibad   lmzintgraf/varibad           as ant-dir-pearl
ant-dir-2d        jonasrothfuss/ProMP          as ant-dir-promp

with a = ||action||^2 and c the sum of the squares of the contact forces, each clipped to [-1, 1].

Names hide more here than elsewhere. PEARL's configuration of ant-dir draws two of its angles, unseeded, and both
trains and tests on the two; its paper's "Ant-Fwd-Back" needs 0 and pi, which is ant-dir-promp with another end and
observation. VariBAD's directions 1 and -1 are used as angles in radians, so its two tasks are 114.6 degrees apart and
a robot that runs along x earns more than half of both. Numbers of one are not numbers of another.

ACTION (8 numbers in [-1, 1], x 150 N m)
    hip and ankle of the file's leg 4 (at +x, -y), 1 (+x, +y), 2 (-x, +y) and 3 (-x, -y)

OBSERVATION
    dir-maml, vel  dir-promp, dir-2d  dir-pearl, dir-varibad
    0-1            -                  -                        torso x, y (m)
    2-14           0-12               0-12                     torso z (m), its quaternion (w, x, y, z), joints (rad)
    15-28          13-26              13-26                    velocities of torso (m/s, rad/s) and joints (rad/s)
    29-112         27-110             -                        contact torque and force (N m, N) on each of 14 bodies,
                                                               world first, in [-1, 1]
    113-121        -                  -                        rotation matrix of the torso
    122-124        -                  -                        centre of mass of the robot (m)

CONTACT FORCES (MuJoCo's `cfrc_ext`) have been zero in most work since MuJoCo 2, which computes them only where a
sensor wants them; here an accelerometer does, so they are what the authors had. They are of the last physics step,
0.01 s old (in rllab they were computed anew), and zero in the first observation. With the option
`contact_forces=False` (`--env-options contact_forces=false`) the observation lacks the 84 numbers (PEARL's and
VariBAD's have none anyway) and the reward lacks c: the task that MuJoCo 2's zeros make. It runs 8 % (MAML's) to 20 %
faster.

DEVIATIONS. The body is gymnasium's ant.xml, the same as PEARL's; for MAML's variants the contacts are as soft as in
the rllab file (solimp). The files integrate with RK4, which mujoco_warp does not have: here it is implicitfast at
gymnasium's 0.01 s (rllab: 0.02 s). With the same random actions the joints are off RK4's by 0.02 rad in the mean
after 0.1 s from the crouching start, by 0.14 rad from the file's pose, whose ankles lie outside of their limits.
MuJoCo is >= 4.0; the originals ran on 1.3 (MAML) and 1.5 (PEARL), whose contact solver differs, so returns need
not agree with the papers'. Positions are of the instant after the step, where PEARL's code reads them one physics step
late. Quaternions are normalised at the start.

ENGINES. On a capsule that stands steeper than 60 degrees mujoco_warp 4.0 turns the friction pyramid to the axes of
the world, MuJoCo to the capsule. So the two agree to the last digits until a foot touches the ground so, and then
only in distribution.
"""

from __future__ import annotations

from torch import Tensor

from envs.locomotion.ant_body import Progress, make_gym_ant, make_rllab_ant
from envs.locomotion.directions import any_way, forward_or_backward, speed_along
from metarl.env import EnvSpec
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays

_PROMP_HEIGHT_M = (0.0, 1.0)


def make_dir_maml(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make MAML's ant that has to find out whether to run forward or backward.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3; cbfinn/maml_rl ant_env_rand_direc.py.
    """
    return _make_maml("ant-dir-maml", forward_or_backward(), _run, horizon, contact_forces)


def make_vel(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make MAML's ant with a hidden target velocity in [0, 3] m/s.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.3; cbfinn/maml_rl ant_env_rand.py.
    """
    velocity = Parameter("velocity", "m/s", Uniform(0.0, 3.0, shell=((3.0, 4.0),)), "target velocity")
    return _make_maml("ant-vel", velocity, _track_velocity, horizon, contact_forces)


def make_dir_promp(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make ProMP's ant that has to find out whether to run forward or backward.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; jonasrothfuss/ProMP ant_rand_direc.py.
    """
    return _make_promp("ant-dir-promp", forward_or_backward(), _run, horizon, contact_forces)


def make_dir_2d(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make ProMP's ant with a hidden direction, anywhere on the circle.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in observation and reward, see the spec sheet.

    Source: Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; jonasrothfuss/ProMP ant_rand_direc_2d.py, of
    which learn2learn has a copy.
    """
    return _make_promp("ant-dir-2d", any_way(), _run, horizon, contact_forces)


def make_dir_pearl(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make PEARL's ant with a hidden direction, anywhere on the circle.

    Args:
        horizon: control steps of an episode.
        contact_forces: have them in the reward, see the spec sheet.

    Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-RL via Probabilistic Context Variables"; katerakelly/oyster
    ant_dir.py with forward_backward False, as in its configuration.
    """
    return _make_pearl("ant-dir-pearl", any_way(), "ant, hidden direction on the circle", horizon, contact_forces)


def make_dir_varibad(horizon: int = 200, contact_forces: bool = True) -> EnvSpec:
    """Make VariBAD's ant, whose two hidden directions lie 57.3 degrees to the left and to the right of the x axis.

    Args:
        horizon: control steps of an episode; VariBAD's trials have 2 episodes.
        contact_forces: have them in the reward, see the spec sheet.

    Source: Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning";
    lmzintgraf/varibad environments/mujoco/ant_dir.py.
    """
    angle = Parameter("angle", "rad", Choice((-1.0, 1.0)), "direction to run, from the x axis")
    return _make_pearl("ant-dir-varibad", angle, "ant, one of two hidden directions", horizon, contact_forces)


def _run(task: Arrays, xy: Tensor, velocity: Tensor) -> Tensor:
    return speed_along(task, velocity)


def _track_velocity(task: Arrays, xy: Tensor, velocity: Tensor) -> Tensor:
    return 1.0 - (velocity[:, 0] - task["velocity"]).abs()


def _make_maml(name: str, parameter: Parameter, progress: Progress, horizon: int, contact_forces: bool) -> EnvSpec:
    return make_rllab_ant(
        name,
        TaskDistribution((parameter,)),
        progress,
        control_cost=0.005,
        alive_bonus=0.05,
        horizon=horizon,
        contact_forces=contact_forces,
        description=f"ant, hidden {parameter.name}",
    )


def _make_promp(name: str, parameter: Parameter, progress: Progress, horizon: int, contact_forces: bool) -> EnvSpec:
    return make_gym_ant(
        name,
        TaskDistribution((parameter,)),
        progress,
        control_cost=0.5,
        alive_bonus=1.0,
        horizon=horizon,
        contact_forces=contact_forces,
        healthy_height_m=_PROMP_HEIGHT_M,
        description=f"ant, hidden {parameter.name}, sees contact forces",
    )


def _make_pearl(name: str, angle: Parameter, description: str, horizon: int, contact_forces: bool) -> EnvSpec:
    return make_gym_ant(
        name,
        TaskDistribution((angle,)),
        _run,
        control_cost=0.5,
        alive_bonus=1.0,
        horizon=horizon,
        sees_forces=False,
        contact_forces=contact_forces,
        description=description,
    )
