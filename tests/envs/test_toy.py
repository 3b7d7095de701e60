"""bandit, tabular-mdp, point-navigation, and the classical strategies on them."""

import math

import pytest
import torch

import envs
from envs.toy import classical
from metarl.env import Noise
from metarl.errors import SpecError
from metarl.seeding import make_generator


def test_a_bandit_arm_pays_with_its_probability():
    env = envs.make("bandit", 20000, num_arms=3)
    env.set_tasks(torch.tensor([[0.0, 0.3, 1.0]]).repeat(20000, 1))
    for arm, probability in enumerate((0.0, 0.3, 1.0)):
        env.reset()
        step = env.step(torch.full((20000,), arm))
        # Four standard errors of a mean of 20000 pulls.
        assert abs(float(step.reward.mean()) - probability) <= 4 * math.sqrt(probability * (1 - probability) / 20000)
        assert bool(step.terminated.all())


def test_a_bandit_tells_nothing_but_rewards():
    env = envs.make("bandit", 50)
    assert bool((env.reset() == 0).all())
    assert bool((env.step(torch.zeros(50, dtype=torch.int64)).obs == 0).all())


def test_the_number_of_arms_is_an_option_and_is_checked():
    assert envs.make_spec("bandit", num_arms=50).action_space.num_actions == 50
    with pytest.raises(SpecError, match="num_arms must be at least 2, got 1"):
        envs.make_spec("bandit", num_arms=1)


def two_state_mdp(num_worlds):
    """Action 0 stays and pays 1, action 1 goes to the other state and pays 5."""
    transition = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    reward_mean = torch.tensor([[1.0, 5.0], [1.0, 5.0]])
    row = torch.cat([transition.flatten(), reward_mean.flatten()])
    return row.repeat(num_worlds, 1)


def test_an_mdp_moves_as_its_transitions_say_and_pays_for_the_state_it_leaves():
    env = envs.make("tabular-mdp", 3000, num_states=2, num_actions=2)
    env.set_tasks(two_state_mdp(3000))
    assert env.reset()[0].tolist() == [1.0, 0.0]
    for action, state, pay in ((0, [1.0, 0.0], 1.0), (1, [0.0, 1.0], 5.0), (0, [0.0, 1.0], 1.0), (1, [1.0, 0.0], 5.0)):
        step = env.step(torch.full((3000,), action))
        assert bool((step.obs == torch.tensor(state)).all())
        assert abs(float(step.reward.mean()) - pay) < 4 / math.sqrt(3000)
        assert abs(float(step.reward.std()) - 1.0) < 0.06


def test_an_mdp_draws_the_next_state_by_inverse_cdf():
    spec = envs.make_spec("tabular-mdp", num_states=3, num_actions=2)
    task = {
        "transition": torch.tensor([0.2, 0.5, 0.3]).expand(5, 3, 2, 3),
        "reward_mean": torch.zeros(5, 3, 2),
    }
    uniform = torch.tensor([[0.0], [0.1999], [0.2001], [0.6999], [0.7001]])
    state = spec.reset(task, Noise(uniform, uniform)).state
    outcome = spec.step(task, {}, state, torch.zeros(5, dtype=torch.int64), Noise(uniform, torch.zeros(5, 1)))
    assert outcome.state["occupied"].argmax(1).tolist() == [0, 0, 1, 1, 2]


def test_random_mdps_have_the_papers_prior():
    spec = envs.make_spec("tabular-mdp")
    task = spec.tasks.unpack(spec.tasks.split("train", 400))
    assert tuple(task["transition"].shape) == (400, 10, 5, 10)
    assert abs(float(task["reward_mean"].mean()) - 1.0) < 0.03
    assert abs(float(task["reward_mean"].std()) - 1.0) < 0.03
    # One coordinate of a flat Dirichlet over 10 has mean 1/10 and variance 9 / (100 * 11).
    assert abs(float(task["transition"].var()) - 9 / 1100) < 2e-4


def test_a_point_moves_a_tenth_of_its_action_and_pays_the_distance():
    env = envs.make("point-navigation", 2)
    env.set_tasks(torch.tensor([[0.3, 0.4], [0.0, -0.5]]))
    env.reset()
    step = env.step(torch.tensor([[0.0, 0.0], [1.0, -5.0]]))
    torch.testing.assert_close(step.obs, torch.tensor([[0.0, 0.0], [0.1, -0.1]]))
    torch.testing.assert_close(step.reward, torch.tensor([-0.5, -math.hypot(0.1, 0.4)]))


def test_a_point_at_its_goal_ends_the_episode_and_pays_nothing_more():
    env = envs.make("point-navigation", 2)
    env.set_tasks(torch.tensor([[0.105, -0.095], [0.5, 0.5]]))
    env.reset()
    action = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    first = env.step(action)
    assert first.terminated.tolist() == first.success.tolist() == [True, False]
    assert float(first.reward[0]) == pytest.approx(-0.005 * math.sqrt(2), rel=1e-3)
    second = env.step(action)
    assert second.valid.tolist() == [False, True]
    assert float(second.reward[0]) == 0.0 and not bool(second.terminated[0])


# The classical strategies.


def play(strategy, num_arms, num_pulls):
    probability = envs.make_spec("bandit", num_arms=num_arms).tasks.split("test", 1000)
    return classical.play_bandit(strategy, probability, num_pulls, make_generator(0, "classical"))


@pytest.mark.parametrize(
    ("strategy", "paper"),
    [
        (classical.random_arm, 49.9),
        (classical.thompson_sampling, 74.7),
        (classical.ucb1(0.2), 78.0),
        (classical.greedy_arm, 74.8),
        (classical.gittins(0.99, num_observations=150, num_levels=400), 78.3),
    ],
    ids=["random", "thompson", "ucb1", "greedy", "gittins"],
)
def test_classical_bandit_returns_agree_with_the_papers_table(strategy, paper):
    total = play(strategy, 5, 100)
    # Both are means of 1000 trials: their difference has sqrt(2) standard errors.
    assert abs(float(total.mean()) - paper) < 3 * math.sqrt(2) * float(total.std()) / math.sqrt(1000)


def test_greedy_and_ucb1_choose_by_hand_computed_indices():
    wins, losses = torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    # Posterior means 4/7, 1/2, 2/3.
    assert classical.greedy_arm(wins, losses, 6, make_generator(0, "g")).tolist() == [2]
    # With c = 1 after 6 pulls: 4/7 + sqrt(2 ln 7 / 7) = 1.317, 1/2 + sqrt(2 ln 7 / 2) = 1.895,
    # 2/3 + sqrt(2 ln 7 / 3) = 1.806.
    assert classical.ucb1(1.0)(wins, losses, 6, make_generator(0, "g")).tolist() == [1]


def test_epsilon_greedy_is_greedy_at_zero_and_random_at_one():
    wins, losses = torch.tensor([[0.0, 9.0]]).repeat(4000, 1), torch.zeros(4000, 2)
    generator = make_generator(0, "g")
    assert bool((classical.epsilon_greedy(0.0)(wins, losses, 3, generator) == 1).all())
    share = classical.epsilon_greedy(1.0)(wins, losses, 3, generator).float().mean()
    assert abs(float(share) - 0.5) < 0.04


def test_gittins_indices_are_those_of_the_literature():
    index = classical._gittins_indices(0.9, 300, 2000)
    # Gittins et al. 2011, p. 265, discount 0.9.
    for alpha, beta, value in ((1, 1, 0.7029), (1, 2, 0.5001), (2, 1, 0.7999)):
        assert abs(float(index[alpha, beta]) - value) < 1.5e-3


def test_planning_agrees_with_the_two_state_mdp_by_hand():
    task = envs.make_spec("tabular-mdp", num_states=2, num_actions=2).tasks.unpack(two_state_mdp(1))
    plan, value = classical.plan_optimally(task["transition"], task["reward_mean"], 3)
    assert bool((plan == 1).all())
    assert value.tolist() == [[15.0, 15.0]]


def test_planning_looks_ahead():
    # Action 1 pays 0 and leads to state 1, where every action pays 10; action 0 pays 1 and stays.
    transition = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    reward_mean = torch.tensor([[[1.0, 0.0], [10.0, 10.0]]])
    plan, value = classical.plan_optimally(transition, reward_mean, 2)
    assert plan[0, :, 0].tolist() == [1, 0]
    assert value.tolist() == [[10.0, 20.0]]


def test_classical_mdp_returns_are_ordered_and_bounded():
    spec = envs.make_spec("tabular-mdp")
    task = spec.tasks.unpack(spec.tasks.split("test", 1000))
    transition, reward_mean = task["transition"], task["reward_mean"]

    def total(strategy):
        return classical.play_mdp(strategy, transition, reward_mean, 10, 10, make_generator(0, "classical"))

    random, psrl = total(classical.random_plan), total(classical.psrl)
    known = total(classical.known_model(transition, reward_mean))
    assert abs(float(random.mean()) - 100.1) < 3 * math.sqrt(2) * float(random.std()) / math.sqrt(1000)
    # With the model known, 10 episodes earn 10 times the value of the start state.
    expected = 10 * classical.plan_optimally(transition, reward_mean, 10)[1][:, 0]
    assert abs(float((known - expected).mean())) < 4 * float((known - expected).std()) / math.sqrt(1000)
    assert float(random.mean()) + 20 < float(psrl.mean()) < float(known.mean()) - 20


def test_strategies_play_the_environments_own_mdp():
    spec = envs.make_spec("tabular-mdp")
    tasks = spec.tasks.split("test", 1000)
    env = envs.make("tabular-mdp", 1000)
    env.set_tasks(tasks)
    task = spec.tasks.unpack(tasks)
    plan, value = classical.plan_optimally(task["transition"], task["reward_mean"], 10)
    state, total = env.reset().argmax(1), torch.zeros(1000)
    for t in range(10):
        step = env.step(plan[torch.arange(1000), t, state])
        state, total = step.obs.argmax(1), total + step.reward
    difference = total - value[:, 0]
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(1000)
