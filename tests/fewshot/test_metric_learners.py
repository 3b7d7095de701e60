"""The learners that compare embeddings: values by hand, invariances, coinciding limits, small problems learned."""

import math
from dataclasses import replace

import pytest
import torch

from metarl.errors import ConfigError
from metarl.fewshot.learners import default_settings, make_learner
from metarl.fewshot.learners.gnn import Edges
from metarl.fewshot.learners.matching import class_log_probs
from metarl.fewshot.learners.metric import apply_where, featured, members
from metarl.fewshot.learners.protonet import as_linear_classifier, prototypes, squared_distances
from metarl.fewshot.types import Episode, cross_entropy
from tests.fewshot.clusters import DIM, NUM_WAYS, cluster_episode, disturbed_episode

METRIC = ("protonet", "matching", "relation", "gnn")
CONTEXT = {"full_context": True, "num_reads": 2}
VARIANTS = [
    *[(name, {}) for name in METRIC],
    ("matching", {"distance": "cosine", "initial_scale": 5.0}),
    ("matching", CONTEXT),
    ("relation", {"objective": "cross-entropy"}),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def learner_of(name, dtype=torch.float64, x_shape=(DIM,), **changes):
    settings = replace(default_settings(name), **({"hidden_dim": 16} | changes))
    if name == "gnn":
        settings = replace(settings, graph_dim=16)
    return make_learner(name, settings, x_shape, NUM_WAYS, generator()).to(dtype)


def episode_of(num_tasks=3, seed=1, dtype=torch.float64, **options):
    return cluster_episode(num_tasks, generator(seed), dtype=dtype, **options)


def padded(episode, garbage=9.0):
    """The same tasks with three more samples that are padding in support and query; of the first task one is real."""

    def more(x, y, mask):
        there = torch.zeros(len(y), 3, dtype=torch.bool)
        return torch.cat([x, x[:, :3] + garbage], 1), torch.cat([y, y[:, :3]], 1), torch.cat([mask, there], 1)

    return Episode(
        *more(episode.support_x, episode.support_y, episode.support_mask),
        *more(episode.query_x, episode.query_y, episode.query_mask),
        num_ways=episode.num_ways,
    )


@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_log_probabilities_sum_to_one_and_keep_no_graph(name, changes):
    log_probs = learner_of(name, **changes).log_probs(episode_of(), generator(3))
    assert log_probs.shape == (3, 16, NUM_WAYS) and not log_probs.requires_grad
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 16, dtype=torch.float64))


@pytest.mark.parametrize(("name", "changes"), [v for v in VARIANTS if v[1] != CONTEXT], ids=str)
def test_the_order_of_the_support_does_not_matter(name, changes):
    episode = episode_of(shots=2)
    order = torch.randperm(2 * NUM_WAYS, generator=generator(5))
    shuffled = episode._replace(support_x=episode.support_x[:, order], support_y=episode.support_y[:, order])
    learner = learner_of(name, **changes)
    torch.testing.assert_close(learner.log_probs(shuffled, generator()), learner.log_probs(episode, generator()))
    torch.testing.assert_close(learner.loss(shuffled, generator())[0], learner.loss(episode, generator())[0])


@pytest.mark.parametrize(("name", "changes"), [v for v in VARIANTS if v[0] != "gnn"], ids=str)
def test_relabelling_classes_permutes_predictions(name, changes):
    learner, episode, new = learner_of(name, **changes), episode_of(shots=2), torch.tensor([2, 0, 3, 1])
    relabelled = episode._replace(support_y=new[episode.support_y], query_y=new[episode.query_y])
    found, expected = learner.log_probs(relabelled, generator()), learner.log_probs(episode, generator())
    torch.testing.assert_close(found[..., new], expected)
    assert expected.std() > 1e-4


@pytest.mark.parametrize("norm", ["running", "batch", "none"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_padding_does_not_matter(name, changes, norm):
    learner, twin = (learner_of(name, norm=norm, **changes) for _ in range(2))
    episode = episode_of(shots=2)
    losses = []
    for one, tasks in ((learner, episode), (twin, padded(episode))):
        if changes == CONTEXT:  # the loss shuffles the support
            one.loss(tasks, generator(3))
            losses.append(cross_entropy(one(tasks), tasks))
        else:
            losses.append(one.loss(tasks, generator(3))[0])
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for own, other in zip(learner.parameters(), twin.parameters(), strict=True):
        assert own.grad is None or torch.isfinite(other.grad).all()
        torch.testing.assert_close(other.grad, own.grad)
    count = episode.query_y.shape[1]
    expected = learner.log_probs(episode, generator())
    if changes != CONTEXT:  # where running averages have seen the same
        torch.testing.assert_close(twin.log_probs(padded(episode), generator())[:, :count], expected)


@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_queries_of_no_class_do_not_add_to_the_loss(name, changes):
    learner, episode = learner_of(name, norm="none", **changes), episode_of()
    strange = episode._replace(query_y=torch.cat([episode.query_y[:, :-2], torch.full((3, 2), -1)], 1))
    fewer = episode._replace(
        query_x=episode.query_x[:, :-2], query_y=episode.query_y[:, :-2], query_mask=episode.query_mask[:, :-2]
    )
    torch.testing.assert_close(learner.loss(strange, generator(3))[0], learner.loss(fewer, generator(3))[0])


@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_gradients_are_those_of_finite_differences(name, changes):
    learner, episode = learner_of(name, norm="none", **changes), episode_of(2)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    direction = [torch.randn(p.shape, generator=generator(7), dtype=p.dtype) for p in parameters]
    gradient = torch.autograd.grad(learner.loss(episode, generator(3))[0], parameters)
    slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))

    def at(shift):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(shift * d)
            value = learner.loss(episode, generator(3))[0]
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(shift * d)
        return value

    difference = float(at(1e-7) - at(-1e-7)) / 2e-7
    assert abs(difference) > 1e-6
    assert float(slope) == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [pytest.param(*v, marks=pytest.mark.slow) if v[0] == "gnn" else v for v in VARIANTS],
    ids=str,
)
def test_an_embedding_that_leaves_noise_out_is_learned(name, changes):
    learner = learner_of(name, torch.float32, hidden_dim=32, norm="batch", **changes)
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=3e-3)
    draws, test = generator(2), disturbed_episode(200, generator(9))

    def accuracy():
        return float((learner.log_probs(test, generator()).argmax(-1) == test.query_y).float().mean())

    assert accuracy() < 0.5
    for _ in range(150):
        loss, _ = learner.loss(disturbed_episode(16, draws, queries=3), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert accuracy() > 0.88


@pytest.mark.parametrize("name", METRIC)
@pytest.mark.parametrize("x_shape", [(1, 28, 28), (3, 16, 16), (6, 32)], ids=str)
def test_images_and_signals_are_taken(name, x_shape):
    learner = learner_of(name, torch.float32, x_shape, hidden_dim=8)
    y = torch.arange(NUM_WAYS).expand(2, -1)
    x, mask = torch.randn(2, NUM_WAYS, *x_shape, generator=generator()), torch.ones_like(y, dtype=torch.bool)
    episode = Episode(x, y, mask, x + 0.1, y, mask, NUM_WAYS)
    loss, metrics = learner.loss(episode, generator())
    loss.backward()
    assert torch.isfinite(loss) and 0 <= metrics["accuracy"] <= 1
    assert learner.log_probs(episode, generator()).shape == (2, NUM_WAYS, NUM_WAYS)
    assert learner.embed(x[0]).shape[0] == NUM_WAYS and learner.embed(x[0]).dim() == 2


def test_squared_distances_to_prototypes_are_a_linear_classifier():
    episode = episode_of(shots=3)
    means = prototypes(episode.support_x, episode.support_y, episode.support_mask, NUM_WAYS)
    weight, bias = as_linear_classifier(means)
    torch.testing.assert_close(weight, 2 * means)
    torch.testing.assert_close(bias, -means.square().sum(-1))
    logits = episode.query_x @ weight.mT + bias.unsqueeze(1)
    by_distance = -squared_distances(episode.query_x, means)
    torch.testing.assert_close(logits.log_softmax(-1), by_distance.log_softmax(-1))
    torch.testing.assert_close(-by_distance, torch.cdist(episode.query_x, means).square())


def test_prototypes_by_hand():
    support = torch.tensor([[[0.0, 2.0], [4.0, 0.0], [2.0, 4.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, True, False]])
    means = prototypes(support, torch.tensor([[0, 1, 0, 1]]), mask, 2)
    torch.testing.assert_close(means, torch.tensor([[[1.0, 3.0], [4.0, 0.0]]]))


def two_points(distance, **changes):
    """A Matching Network that is its own embedding, and a task of the points (1, 0) and (0, 2) with a query (1, 1)."""
    learner = learner_of("matching", x_shape=(2,), distance=distance, **changes)
    learner.encoder = torch.nn.Identity()
    y, mask = torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    support = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    query = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    return learner, Episode(support, y, mask, query, y[:, :1], mask[:, :1], 2)


def test_attention_by_squared_distances_by_hand():
    # Squared distances 1 and 2.
    learner, episode = two_points("l2")
    expected = torch.tensor([-1.0, -2.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(learner.log_attention(episode).exp()[0, 0], expected)
    assert float(expected[0]) == pytest.approx(1 / (1 + math.exp(-1)))


def test_attention_by_cosines_by_hand():
    # Both cosines are 1 / sqrt 2, whatever the lengths; of (2, 1) they are 2 / sqrt 5 and 1 / sqrt 5.
    learner, episode = two_points("cosine", initial_scale=3.0)
    torch.testing.assert_close(learner.log_attention(episode).exp()[0, 0], torch.full((2,), 0.5, dtype=torch.float64))
    other = episode._replace(query_x=torch.tensor([[[2.0, 1.0]]], dtype=torch.float64))
    expected = (3 / math.sqrt(5) * torch.tensor([2.0, 1.0], dtype=torch.float64)).softmax(0)
    torch.testing.assert_close(learner.log_attention(other).exp()[0, 0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("changes", [{}, {"distance": "cosine"}, CONTEXT], ids=str)
def test_attention_sums_to_one_and_leaves_padding_out(changes):
    learner = learner_of("matching", norm="none", **changes)
    attention = learner.log_attention(featured(learner.features, padded(episode_of()))).exp()
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))
    assert not attention[..., NUM_WAYS:].any() and attention[..., :NUM_WAYS].all()


def test_a_class_gets_the_attention_of_its_support():
    attention = torch.tensor([[[0.1, 0.2, 0.3, 0.4, 0.0]]])
    member = members(torch.tensor([[0, 1, 0, 2, 1]]), torch.tensor([[True, True, True, True, False]]), 3)
    torch.testing.assert_close(class_log_probs(attention.log(), member).exp(), torch.tensor([[[0.4, 0.2, 0.4]]]))


def test_matching_with_one_shot_is_a_prototypical_network():
    matching, protonet = learner_of("matching"), learner_of("protonet")
    matching.encoder.load_state_dict(protonet.encoder.state_dict())
    episode = episode_of()
    torch.testing.assert_close(matching.log_probs(episode, generator()), protonet.log_probs(episode, generator()))


def test_context_changes_embeddings_and_ends_where_padding_begins():
    learner, episode = learner_of("matching", norm="none", **CONTEXT), episode_of()
    plain = learner_of("matching", norm="none")
    found = learner.log_probs(episode, generator())
    assert (found - plain.log_probs(episode, generator())).abs().max() > 1e-3
    # Padding in the middle of the support is left out as well.
    order = torch.tensor([0, 4, 1, 2, 5, 3, 6])
    tasks = padded(episode)
    tasks = tasks._replace(
        support_x=tasks.support_x[:, order],
        support_y=tasks.support_y[:, order],
        support_mask=tasks.support_mask[:, order],
    )
    torch.testing.assert_close(learner.log_probs(tasks, generator())[:, : found.shape[1]], found)


def test_the_comparison_reads_query_and_class_beside_each_other():
    """Two convolutions that are added are one convolution of both maps."""
    comparison = learner_of("relation", x_shape=(1, 28, 28), hidden_dim=8, norm="none").comparison
    query, classes = (torch.randn(1, n, 8, 7, 7, generator=generator(n), dtype=torch.float64) for n in (3, 2))
    found = comparison(query, classes, torch.ones(1, 3, dtype=torch.bool))
    weight = torch.cat([comparison.of_query.weight, comparison.of_class.weight], 1)
    bias = comparison.of_query.bias + comparison.of_class.bias
    for q in range(3):
        for c in range(2):
            both = torch.cat([query[0, q], classes[0, c]])[None]
            maps = comparison.blocks(torch.nn.functional.conv2d(both, weight, bias, padding=1))
            assert maps.shape == (1, 8, 1, 1)
            torch.testing.assert_close(found[0, q, c], comparison.head(maps.flatten(1))[0, 0])


def test_the_squared_error_of_scores_by_hand():
    learner, episode = learner_of("relation"), episode_of(1, queries=1)
    logits = torch.tensor([0.0, 2.0, -2.0, 1.0], dtype=torch.float64).expand(1, 4, 4)
    learner._logits = lambda _: logits
    score = logits[0, 0].sigmoid()
    # Query c is of class c: the error of its own score is (1 - r_c)^2.
    expected = (4 * score.square().sum() + (1 - 2 * score).sum()) / 16
    loss, metrics = learner.loss(episode, generator())
    torch.testing.assert_close(loss, expected)
    assert metrics == {"accuracy": 0.25}


def test_scores_are_predicted_as_odds_given_that_one_class_is_right():
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    score = logits.sigmoid()
    alone = torch.stack([score[c] * torch.cat([1 - score[:c], 1 - score[c + 1 :]]).prod() for c in range(3)])
    torch.testing.assert_close(logits.softmax(0), alone / alone.sum())


def test_edges_are_symmetric_before_they_are_normalised_and_never_to_oneself():
    edges = Edges(5, 16, "none").double()
    node = torch.randn(2, 4, 5, generator=generator(), dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    found = edges(node, mask)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4, dtype=torch.float64))
    assert not found[0].diagonal().any() and not found[1, :3, 3].any()
    by_hand = edges.similarity((node[0, 0] - node[0, 1:]).abs())[:, 0].softmax(0)
    torch.testing.assert_close(found[0, 0, 1:], by_hand)
    # log A_ij - log A_ik = s_ij - s_ik: a cycle of three sums to zero where s is symmetric.
    log = found[0].log()
    cycle = (log[0, 1] - log[0, 2]) + (log[1, 2] - log[1, 0]) + (log[2, 0] - log[2, 1])
    assert float(cycle.detach()) == pytest.approx(0, abs=1e-9)


def test_a_graph_without_layers_by_hand():
    """U x + V A x at the query's node, x = [embedding, label]."""
    learner, episode = learner_of("gnn", num_layers=0, norm="none"), episode_of(1, queries=1)
    embedded = learner.encoder(torch.cat([episode.query_x[0, :1], episode.support_x[0]]))  # (1 + S, D)
    label = torch.cat([torch.full((1, NUM_WAYS), 0.25), torch.eye(NUM_WAYS)]).double()
    node = torch.cat([embedded, label], 1)
    attention = learner.edges[0](node[None], torch.ones(1, len(node), dtype=torch.bool))[0, 0]  # (1 + S,)
    logits = learner.own[0](node[0]) + learner.others[0](attention @ node)
    torch.testing.assert_close(learner.log_probs(episode, generator())[0, 0], logits.log_softmax(0))


def test_a_query_does_not_see_the_other_queries():
    for name in METRIC:
        learner, episode = learner_of(name), episode_of()
        alone = episode._replace(
            query_x=episode.query_x[:, :1], query_y=episode.query_y[:, :1], query_mask=episode.query_mask[:, :1]
        )
        torch.testing.assert_close(
            learner.log_probs(alone, generator())[:, 0], learner.log_probs(episode, generator())[:, 0]
        )


def test_a_function_is_applied_where_a_mask_is_true():
    x, mask = torch.arange(6.0).view(2, 3, 1), torch.tensor([[True, False, True], [False, True, True]])
    seen = []
    found = apply_where(lambda batch: seen.append(len(batch)) or batch.expand(-1, 2) + 1, x, mask)
    assert seen == [4]
    torch.testing.assert_close(found[..., 0], torch.tensor([[1.0, 0.0, 3.0], [0.0, 5.0, 6.0]]))


def test_a_state_dict_restores_every_learner():
    episode = episode_of()
    for name, changes in VARIANTS:
        learner, twin = learner_of(name, **changes), learner_of(name, **changes)
        learner.loss(episode, generator())  # running averages move
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(0.01)
        twin.load_state_dict(learner.state_dict())
        torch.testing.assert_close(twin.log_probs(episode, generator()), learner.log_probs(episode, generator()))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("matching", {"initial_scale": 0.0}, "initial_scale must be positive"),
        ("matching", {"num_reads": 0}, "num_reads must be at least 1"),
        ("relation", {"relation_dim": 0}, "relation_dim must be at least 1"),
        ("gnn", {"num_layers": -1}, "num_layers must not be negative"),
        ("gnn", {"graph_dim": 20}, "graph_dim must be a multiple of 16"),
    ],
)
def test_settings_out_of_their_domain_are_refused(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(default_settings(name), **changes)


def test_a_graph_of_other_ways_is_refused():
    learner = make_learner("gnn", default_settings("gnn"), (DIM,), NUM_WAYS + 1, generator())
    with pytest.raises(ConfigError, match="5 outputs and cannot judge 4-way tasks"):
        learner.log_probs(episode_of(dtype=torch.float32), generator())
