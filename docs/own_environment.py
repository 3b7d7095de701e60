"""Your own environment: a pendulum that is to hold a hidden angle against hidden friction."""

import mujoco
import torch

import envs
from metarl.config import RunConfig
from metarl.env import EnvSpec, Outcome, Physics, Start
from metarl.evaluate import evaluate
from metarl.learners.rl2 import RL2Config
from metarl.run import load_run
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.train import train
from metarl.types import Continuous

MJCF = """<mujoco> <option timestep="0.01" integrator="implicitfast"/>
  <worldbody> <light pos="0 -2 1" dir="0 1 -.5"/> <camera name="video" pos="0 -1.4 -.2" xyaxes="1 0 0 0 0 1"/>
    <body mocap="true"> <geom size=".05" rgba=".1 .8 .3 1" contype="0" conaffinity="0"/> </body>
    <body> <joint name="hinge" axis="0 1 0" damping=".1"/> <geom type="capsule" size=".02" fromto="0 0 0 0 0 -.5"/>
    </body> </worldbody> <actuator> <motor joint="hinge" gear="2"/> </actuator> </mujoco>"""

ANGLE = Parameter("angle", "rad", Uniform(-1.2, 1.2, hole=(-0.3, 0.3), shell=((-1.5, -1.2), (1.2, 1.5))), "to hold")
FRICTION = Parameter("friction", "1", Uniform(0.5, 2.0, shell=((2.0, 4.0),), log=True), "scale of the damping")


def configure(task, defaults):  # every function handles all N worlds at once: task["friction"] is (N,)
    return {"dof_damping": defaults["dof_damping"] * task["friction"].unsqueeze(1)}


def reset(task, noise):  # the green ball shows the angle in videos; the policy never sees it
    ball = -0.5 * torch.stack([task["angle"].sin(), torch.zeros_like(task["angle"]), task["angle"].cos()], 1)
    return Start(state={}, writes={"qpos": 0.2 * noise.uniform - 0.1, "mocap_pos": ball.unsqueeze(1)})


def observe(task, data, state):
    return torch.cat([data["qpos"].sin(), data["qpos"].cos(), 0.2 * data["qvel"]], 1)


def step(task, data, state, action, noise):  # `data` is from after the physics step
    error = (data["qpos"][:, 0] - task["angle"]).abs()
    return Outcome(state, reward=1 - torch.tanh(2 * error), terminated=error > 100, success=error < 0.1)


def make_spec():
    model, tasks = mujoco.MjModel.from_xml_string(MJCF), TaskDistribution((ANGLE, FRICTION))
    physics = Physics(model, 5, data_fields=("qpos", "qvel"), model_fields=("dof_damping",), configure=configure)
    functions = {"reset": reset, "observe": observe, "step": step, "control": lambda t, d, s, action: {"ctrl": action}}
    return EnvSpec("pendulum", tasks, 3, Continuous(1), horizon=20, reset_noise=(1, 0), physics=physics, **functions)


def main(out="runs/pendulum", total_steps=600_000, num_worlds=256):
    envs.register("pendulum", make_spec)
    train(RunConfig("rl2", "pendulum", RL2Config(total_steps=total_steps, num_worlds=num_worlds)), out)
    run = load_run(out)
    print({s: evaluate(run.learner, run.spec, algorithm="rl2", split=s).iqm_return for s in ("test", "extrapolation")})


if __name__ == "__main__":
    main()
