"""reach-either: what is hidden, when it is told, and that what the feedback goes along with tells it."""

import math

import pytest
import torch

import envs
from metarl.env import BatchedEnv, Noise
from metarl.learners import preset
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.losses.task_encoding import feedback_model
from metarl.seeding import make_generator

SPEC = envs.make_spec("reach-either")
TOLD = envs.make_spec("reach-either", told=True)
PLAIN = {
    "robot": 0,
    "wanted": 1.0,
    "direction": 0.0,
    "angle": math.pi / 2,
    "side": 1.0,
    "distance": [0.2, 0.25],
    "mass": 1.0,
    "friction": 0.5,
    "gain": [1.0, 1.0, 1.0],
    "swapped": 0.0,
}
STILL = Noise(torch.full((1, 3), 0.5), torch.zeros(1, 0))


def task_of(**changes):
    named = SPEC.tasks.unpack(SPEC.tasks.pack(PLAIN | changes).unsqueeze(0))
    return named | SPEC.derive(named)


def play(task, action, num_steps):
    state = SPEC.reset(task, STILL).state
    outcomes = []
    for _ in range(num_steps):
        outcomes.append(SPEC.step(task, {}, state, action, STILL))
        state = outcomes[-1].state
    return state, outcomes


def test_the_things_lie_where_the_task_says():
    task = task_of(side=-1.0, direction=math.pi / 4)
    half = math.sqrt(0.5)
    torch.testing.assert_close(task["first"], torch.tensor([[0.2 * half, 0.2 * half]]))
    torch.testing.assert_close(task["second"], torch.tensor([[0.25 * half, -0.25 * half]]))


@pytest.mark.parametrize(("wanted", "place"), [(0.0, [0.2, 0.0]), (1.0, [0.0, 0.25])])
def test_reward_and_feedback_are_of_the_thing_that_is_wanted(wanted, place):
    task = task_of(wanted=wanted)
    state, outcomes = play(task, torch.tensor([[0.3, 0.1, 0.0]]), 30)
    distance = float((torch.tensor([place]) - state["tip"]).norm())
    assert float(outcomes[-1].reward) == pytest.approx(-distance, abs=1e-5)
    assert float(SPEC.signals.feedback(task, {}, state)) == pytest.approx(-distance / 0.25, abs=1e-4)
    for outcome in outcomes[:-1]:
        assert float(SPEC.signals.feedback(task, {}, outcome.state)) == 0.0


def test_nothing_that_an_agent_sees_before_the_end_depends_on_what_is_wanted():
    seen = []
    for wanted in (0.0, 1.0):
        task = task_of(wanted=wanted)
        _, outcomes = play(task, torch.tensor([[0.3, 0.1, 0.0]]), 29)
        states = [outcome.state for outcome in outcomes]
        told = [
            [f(task, {}, state) for f in (SPEC.observe, SPEC.signals.compute, SPEC.signals.feedback)]
            for state in states
        ]
        seen.append(told)
    for one, other in zip(*seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_who_is_told_reads_the_signals_of_the_wanted_thing():
    assert TOLD.signals.names == envs.make_spec("reach-robots").signals.names
    for wanted, columns in ((0.0, slice(0, 3)), (1.0, slice(3, 6))):
        task = task_of(wanted=wanted)
        state, _ = play(task, torch.tensor([[0.3, 0.1, 0.0]]), 5)
        both = SPEC.signals.compute(task, {}, state)
        assert torch.equal(TOLD.signals.compute(task, {}, state), both[:, columns])


def test_what_the_feedback_goes_along_with_tells_what_is_wanted():
    # Nearer to the wanted thing is better: a linear read-out of the model, fitted on half of the tasks, finds it.
    num_tasks = 128
    learner = LearnedLossLearner(SPEC, preset("learned-loss", "reach-either"), 0)
    tasks = SPEC.tasks.split("train", num_tasks)
    env = BatchedEnv(SPEC, num_tasks * 16)
    env.set_tasks(tasks)
    rollout = learner.trial(env, 1, make_generator(0, "policy"))
    supports = [learner.support(rollout, 0, num_tasks)]
    models = torch.func.vmap(feedback_model)(supports)  # (B, I)
    inputs = torch.cat([models, torch.ones(num_tasks, 1)], 1)
    wanted = 2 * SPEC.tasks.unpack(tasks)["wanted"] - 1
    half = num_tasks // 2
    weights = torch.linalg.lstsq(inputs[:half], wanted[:half].unsqueeze(1)).solution.squeeze(1)
    right = (inputs[half:] @ weights).sign() == wanted[half:]
    assert float(right.float().mean()) > 0.8
