"""The learners that adapt weights: meta-gradients against finite differences, invariances, limits that coincide."""

from dataclasses import replace

import pytest
import torch

from metarl.errors import ConfigError
from metarl.fewshot.learners import default_settings, make_learner, settings_type
from metarl.fewshot.learners.gradient import InnerSettings
from metarl.fewshot.learners.maml import MAMLSettings, prototype_head
from metarl.fewshot.tasks import tasks_of
from metarl.fewshot.types import Episode
from tests.fewshot.clusters import DIM, NUM_WAYS, cluster_episode

SMALL = {"norm": "none", "hidden_dim": 12}
BY_GRADIENTS = (
    *("maml", "fomaml", "anil", "meta-sgd", "maml++", "proto-maml", "ml3"),
    *("reptile", "abml", "vampire", "bmaml", "platipus"),
)
BAYESIAN = ("abml", "vampire", "bmaml", "platipus")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def learner_of(name, dtype=torch.float32, **changes):
    settings = replace(default_settings(name), **(SMALL | changes))
    return make_learner(name, settings, (DIM,), NUM_WAYS, generator()).to(dtype)


def episode_of(num_tasks=3, seed=1, **options):
    return cluster_episode(num_tasks, generator(seed), **options)


def double_episode(num_tasks=3):
    return episode_of(num_tasks, dtype=torch.float64)


def slopes(learner, episode):
    """The derivative along a random direction of all meta-parameters: by the gradient, and by central differences."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    direction = [torch.randn(p.shape, generator=generator(7), dtype=p.dtype) for p in parameters]
    loss, _ = learner.loss(episode, generator(3))
    gradient = torch.autograd.grad(loss, parameters)
    found = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))

    def at(shift):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(shift * d)
            value = learner.loss(episode, generator(3))[0]
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(shift * d)
        return value

    size = 1e-7
    return float(found), float((at(size) - at(-size)) / (2 * size))


VARIANTS = [
    *[("maml", {"num_inner_steps": steps}) for steps in (1, 2, 3)],
    *[("maml", {"num_inner_steps": 2, "adapts": adapts}) for adapts in ("head", "body")],
    *[("maml", {"num_inner_steps": 2, "head": head, "inner_lr": 0.05}) for head in ("zero", "prototypes")],
    ("maml", {"num_inner_steps": 2, "head": "prototypes", "adapts": "body", "inner_lr": 0.05}),
    ("maml", {"num_inner_steps": 2, "norm": "batch"}),
    *[(name, {"num_inner_steps": steps}) for name in ("meta-sgd", "maml++", "anil") for steps in (1, 3)],
    *[("ml3", {"num_inner_steps": 2, "inner_loss": inner_loss}) for inner_loss in ("ml3", "weighted-error")],
    *[(name, {"num_inner_steps": 2, "inner_kl_coef": 1e-3}) for name in ("abml", "vampire")],
    ("abml", {"num_inner_steps": 2, "adapts": "head", "outer_kl_coef": 1.0}),
    *[("bmaml", {"num_inner_steps": 1, "adapts": adapts}) for adapts in ("head", "all")],
    *[("platipus", {"num_inner_steps": 2, "kl_coef": 1.0, "adapts": adapts}) for adapts in ("head", "all")],
    *[("cnp", {"pooling": p, "set_hidden_dim": 8, "representation_dim": 4}) for p in ("mean", "attention", "gaussian")],
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_meta_gradients_are_those_of_finite_differences(name, changes):
    gradient, difference = slopes(learner_of(name, torch.float64, **changes), double_episode())
    assert abs(difference) > 1e-4  # the comparison says something
    assert gradient == pytest.approx(difference, rel=3e-5)


def test_first_order_gradients_are_not_exact_but_for_inner_steps_of_size_zero():
    gradient, difference = slopes(learner_of("fomaml", torch.float64, num_inner_steps=2), double_episode())
    assert gradient != pytest.approx(difference, rel=1e-2)
    gradient, difference = slopes(learner_of("fomaml", torch.float64, inner_lr=0.0), double_episode())
    assert gradient == pytest.approx(difference, rel=3e-5)


def test_gradients_are_first_order_in_their_share_of_the_training_and_exact_after_it():
    learner = learner_of("maml", torch.float64, num_inner_steps=2, first_order_share=0.5)
    learner.set_progress(0.4)
    gradient, difference = slopes(learner, double_episode())
    assert gradient != pytest.approx(difference, rel=1e-2)
    learner.set_progress(0.5)
    gradient, difference = slopes(learner, double_episode())
    assert gradient == pytest.approx(difference, rel=3e-5)


@pytest.mark.parametrize("name", [n for n in BY_GRADIENTS if n != "reptile"] + ["cnp"])
def test_chunks_of_tasks_equal_one_task_at_a_time(name):
    episode, found = double_episode(5), []
    for chunk in (1, 2, 5):
        learner = learner_of(name, torch.float64, task_chunk=chunk)
        loss, metrics = learner.loss(episode, generator(3))
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
        found.append((loss.detach(), gradient, learner.log_probs(episode, generator(3)), metrics))
    for other in found[1:]:
        torch.testing.assert_close(other[:3], found[0][:3])
        assert other[3] == pytest.approx(found[0][3])


@pytest.mark.parametrize("name", [*BY_GRADIENTS, "cnp"])
def test_log_probabilities_sum_to_one_and_keep_no_graph(name):
    episode = episode_of()
    log_probs = learner_of(name).log_probs(episode, generator(3))
    assert log_probs.shape == (3, 16, NUM_WAYS) and not log_probs.requires_grad
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 16))


@pytest.mark.parametrize("name", [*BY_GRADIENTS, "cnp"])
def test_the_order_of_the_support_does_not_matter(name):
    episode = double_episode()
    order = torch.randperm(NUM_WAYS, generator=generator(5))
    shuffled = episode._replace(support_x=episode.support_x[:, order], support_y=episode.support_y[:, order])
    learner = learner_of(name, torch.float64)
    torch.testing.assert_close(learner.log_probs(shuffled, generator(3)), learner.log_probs(episode, generator(3)))


@pytest.mark.parametrize("name", [*BY_GRADIENTS, "cnp"])
def test_what_padding_holds_does_not_matter(name):
    episode = double_episode()
    padded = episode._replace(
        support_x=torch.cat([episode.support_x, episode.support_x[:, :2] + 9.0], 1),
        support_y=torch.cat([episode.support_y, episode.support_y[:, 1:3]], 1),
        support_mask=torch.cat([episode.support_mask, torch.zeros(3, 2, dtype=torch.bool)], 1),
    )
    learner = learner_of(name, torch.float64)
    torch.testing.assert_close(learner.log_probs(padded, generator(3)), learner.log_probs(episode, generator(3)))
    if name != "reptile":
        torch.testing.assert_close(learner.loss(padded, generator(3))[0], learner.loss(episode, generator(3))[0])


@pytest.mark.parametrize("name", [n for n in BY_GRADIENTS if n not in ("reptile", "platipus", "abml", "vampire")])
def test_queries_of_no_class_are_left_out_of_the_loss(name):
    episode = double_episode()
    strange = episode._replace(
        query_x=torch.cat([episode.query_x, torch.full_like(episode.query_x[:, :1], 5.0)], 1),
        query_y=torch.cat([episode.query_y, torch.full_like(episode.query_y[:, :1], -1)], 1),
        query_mask=torch.cat([episode.query_mask, torch.ones(3, 1, dtype=torch.bool)], 1),
    )
    learner = learner_of(name, torch.float64)
    torch.testing.assert_close(learner.loss(strange, generator(3))[0], learner.loss(episode, generator(3))[0])


@pytest.mark.parametrize("name", ["maml", "anil", "ml3", "reptile", "abml", "bmaml"])
def test_inner_steps_of_size_zero_are_the_identity(name):
    episode = episode_of()
    still = learner_of(name, inner_lr=0.0)
    found = still.predict(episode, generator(3))
    torch.testing.assert_close(found, still.predict(episode, generator(3), num_steps=0))


@pytest.mark.parametrize("head", ["zero", "prototypes"])
@pytest.mark.parametrize("inner_loss", ["task", "ml3", "weighted-error"])
def test_relabelling_classes_permutes_predictions_where_the_head_is_symmetric(head, inner_loss):
    check_relabelling(learner_of("maml", torch.float64, head=head, inner_loss=inner_loss, num_inner_steps=2))


def test_relabelling_classes_permutes_the_predictions_of_a_neural_process():
    check_relabelling(learner_of("cnp", torch.float64))


def check_relabelling(learner):
    episode = double_episode()
    new = torch.tensor([2, 0, 3, 1])
    relabelled = episode._replace(support_y=new[episode.support_y], query_y=new[episode.query_y])
    found, expected = learner.log_probs(relabelled, generator(3)), learner.log_probs(episode, generator(3))
    torch.testing.assert_close(found[..., new], expected)
    assert expected.std() > 1e-4


def test_logits_of_the_prototypical_head_are_minus_squared_distances():
    episode = double_episode(1)
    support = tasks_of(episode, {}).support
    support = type(support)(*(value[0] for value in support))
    head = prototype_head(support.x, support, NUM_WAYS)
    query = episode.query_x[0]
    logits = query @ head["head.weight"].mT + head["head.bias"]
    order = support.y.argsort()
    distances = torch.cdist(query, support.x[order]).square()  # one shot: prototypes are the samples
    torch.testing.assert_close(logits.log_softmax(-1), (-distances).log_softmax(-1))


def test_one_particle_is_anil():
    settings = {"num_inner_steps": 3, "inner_lr": 0.3}
    bmaml = learner_of("bmaml", torch.float64, num_particles=1, initial_spread=0.0, **settings)
    anil = learner_of("anil", torch.float64, **settings)
    episode = double_episode()
    torch.testing.assert_close(bmaml.log_probs(episode, generator()), anil.log_probs(episode, generator()))


@pytest.mark.parametrize("name", ["abml", "vampire", "platipus"])
def test_certain_weights_are_maml(name):
    changes = {"initial_gamma": 0.0} if name == "platipus" else {"inner_kl_coef": 0.0}
    certain = learner_of(name, torch.float64, num_inner_steps=2, initial_std=1e-9, **changes)
    maml = learner_of("maml", torch.float64, num_inner_steps=2)
    episode = double_episode()
    torch.testing.assert_close(
        certain.log_probs(episode, generator()), maml.log_probs(episode, generator()), atol=1e-6, rtol=0
    )


def test_a_bayesian_prediction_is_the_log_of_averaged_probabilities():
    """Each particle alone is a learner; the mixture of their probabilities is the prediction."""
    settings = {"num_inner_steps": 0, "adapts": "all"}
    learner, episode = learner_of("bmaml", torch.float64, **settings), double_episode()
    single = []
    for particle in range(5):
        alone = learner_of("maml", torch.float64)
        values = {
            n.removeprefix("particles."): v[particle] for n, v in learner.state_dict().items() if "particles" in n
        }
        alone.network.load_state_dict(values)
        single.append(alone.predict(episode, generator(), num_steps=0).exp())
    torch.testing.assert_close(learner.log_probs(episode, generator()).exp(), torch.stack(single).mean(0))


@pytest.mark.parametrize("name", ["abml", "platipus"])
def test_predictions_of_a_task_do_not_depend_on_the_others(name):
    learner, episode = learner_of(name, torch.float64), double_episode()
    alone = learner.log_probs(episode.tasks(1, 2), generator(3))
    torch.testing.assert_close(alone, learner.log_probs(episode, generator(3))[1:2])


def test_the_chaser_loss_is_the_distance_to_leaders_that_are_constants():
    learner = learner_of("bmaml", torch.float64, outer_loss="chaser", num_inner_steps=1, num_leader_steps=2)
    episode, meta = double_episode(1), dict(learner.named_parameters())
    task = type(tasks_of(episode, {}))(*(type(e)(*(v[0] for v in e)) for e in tasks_of(episode, {})[:2]), {})
    start = {name.removeprefix("network."): value for name, value in meta.items() if name.startswith("network.")}
    chaser = learner.adapted(meta, task.support, 1)
    leader = {name: value.detach() for name, value in learner._steps(start, chaser, task.joint, 2).items()}
    expected = sum((chaser[name] - leader[name]).square().sum() for name in chaser)
    loss, _ = learner.loss(episode, generator())
    torch.testing.assert_close(loss, expected)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    for found, right in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(found, right)


def test_multi_step_weights_move_to_the_last_step():
    learner = learner_of("maml++", num_inner_steps=4, multi_step_share=0.5)
    torch.testing.assert_close(learner.step_weights(4), torch.full((4,), 0.25))
    learner.set_progress(0.25)
    torch.testing.assert_close(learner.step_weights(4), torch.tensor([0.125, 0.125, 0.125, 0.625]))
    learner.set_progress(1.0)
    torch.testing.assert_close(learner.step_weights(4), torch.tensor([0.0075, 0.0075, 0.0075, 0.9775]))


def test_steps_beyond_the_trained_ones_have_the_last_size():
    learner = learner_of("maml++", num_inner_steps=2)
    meta = dict(learner.named_parameters())
    learner.step_size.get_parameter("head.bias").data = torch.tensor([0.1, 0.2])
    sizes = [float(learner.step_size_of(meta, step)["head.bias"].detach()) for step in (0, 1, 5)]
    assert sizes == pytest.approx([0.1, 0.2, 0.2])


def test_reptile_with_one_sgd_step_follows_the_mean_gradient():
    learner = learner_of(
        *("reptile", torch.float64), inner_optimizer="sgd", num_inner_steps=1, minibatch_size=0, inner_lr=0.1
    )
    episode = double_episode()
    start = {name: value.clone() for name, value in learner.network.state_dict().items()}
    x = torch.cat([episode.support_x, episode.query_x], 1).flatten(0, 1)
    y = torch.cat([episode.support_y, episode.query_y], 1).flatten()
    torch.nn.functional.cross_entropy(learner.network(x), y).backward()
    expected = {n: start[n] - 0.1 * p.grad for n, p in learner.network.named_parameters()}
    learner.update(episode, generator(3))
    for name, value in learner.network.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name])


def test_the_first_step_of_reptiles_adam_has_the_size_of_its_rate():
    learner = learner_of("reptile", torch.float64, num_inner_steps=1, minibatch_size=0, inner_lr=0.01)
    before = learner.network.head.bias.detach().clone()
    learner.update(double_episode(1), generator(3))
    moved = (learner.network.head.bias - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-4, atol=0)


def test_reptiles_minibatches_hold_padding_only_where_examples_run_out():
    learner = learner_of("reptile", minibatch_size=5)
    episode = episode_of()
    mask = episode.query_mask.clone()
    mask[0, 3:] = False
    drawn = learner._minibatches(learner._tasks(episode._replace(query_mask=mask), generator(), True), generator())
    assert drawn.shape == (3, 5, 5) and (drawn[0] < NUM_WAYS + 3).all()


def test_a_state_dict_restores_every_learner():
    episode = episode_of()
    for name in (*BY_GRADIENTS, "cnp"):
        learner, twin = learner_of(name), learner_of(name)
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(0.01)
        twin.load_state_dict(learner.state_dict())
        torch.testing.assert_close(twin.log_probs(episode, generator(3)), learner.log_probs(episode, generator(3)))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("maml", {"inner_lr": -1.0}, "inner_lr must not be negative"),
        ("maml", {"inner_lr": float("nan")}, "inner_lr must be finite"),
        ("maml", {"norm": "running"}, "norm must be batch, group or none"),
        ("maml++", {"multi_step_share": 2.0}, r"multi_step_share must lie in \[0, 1\]"),
        ("maml", {"first_order_share": -0.1}, r"first_order_share must lie in \[0, 1\]"),
        ("reptile", {"adapts": "head"}, "adapts must be 'all'"),
        ("reptile", {"outer_lr": 0.0}, r"outer_lr must lie in \(0, 1\]"),
        ("abml", {"initial_std": 0.0}, "initial_std must be positive"),
        ("bmaml", {"num_particles": 0}, "num_particles must be at least 1"),
        ("platipus", {"kl_coef": -1.0}, "kl_coef must not be negative"),
        ("cnp", {"representation_dim": 0}, "representation_dim must be at least 1"),
    ],
)
def test_settings_out_of_their_domain_are_refused(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(default_settings(name), **changes)


def test_tasks_of_another_number_of_ways_are_refused():
    learner = make_learner("maml", MAMLSettings(**SMALL), (DIM,), NUM_WAYS + 1, generator())
    with pytest.raises(ConfigError, match="5 outputs and cannot judge 4-way tasks"):
        learner.log_probs(episode_of(), generator())


def test_relatives_of_maml_are_settings_of_one_learner():
    assert all(issubclass(settings_type(name), InnerSettings) for name in BY_GRADIENTS)
    assert len({settings_type(name) for name in ("maml", "fomaml", "anil", "meta-sgd", "maml++", "ml3")}) == 1


def number_episode(num_tasks, draws, dtype=torch.float32):
    """Lines y = a + x of two outputs; four points to see."""
    offset = torch.randn(num_tasks, 1, 2, generator=draws, dtype=dtype)

    def part(count):
        x = torch.randn(num_tasks, count, 1, generator=draws, dtype=dtype)
        return x, x + offset, torch.ones(num_tasks, count, dtype=torch.bool)

    return Episode(*part(4), *part(8), num_ways=2)


def number_process(dtype=torch.float32):
    settings = replace(default_settings("cnp"), targets="numbers", **SMALL)
    return make_learner("cnp", settings, (1,), 2, generator()).to(dtype)


def test_a_neural_process_of_numbers_is_judged_by_their_normal_distribution():
    learner, episode = number_process(torch.float64), number_episode(3, generator(1), torch.float64)
    mean, std = learner.predict_numbers(episode)
    expected = -torch.distributions.Normal(mean, std).log_prob(episode.query_y).mean()
    torch.testing.assert_close(learner.loss(episode, generator())[0], expected)
    assert mean.shape == std.shape == episode.query_y.shape and std.min() > 0.1
    gradient, difference = slopes(learner, episode)
    assert gradient == pytest.approx(difference, rel=3e-5)


def test_a_neural_process_learns_lines_and_how_sure_it_can_be():
    learner, draws = number_process(), generator(1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    for _ in range(200):
        loss, _ = learner.loss(number_episode(16, draws), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = number_episode(500, generator(9))
    mean, std = learner.predict_numbers(test)
    error = mean - test.query_y
    assert float(error.square().mean()) < 0.05  # 1 for one that knows x alone
    assert 0.6 < float((error / std).square().mean()) < 1.7
