"""Features that tasks share: the same draws, each sample encoded once, the same judgement."""

from dataclasses import replace

import pytest
import torch

from metarl.fewshot.evaluate import evaluate_few_shot, sharing_features
from metarl.fewshot.learners import default_settings, make_learner
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.sources import FeatureSource, PackedSource
from tests.fewshot.synthetic import packed

SHAPE = EpisodeShape(ways=3, shots=2, queries=3, unknown_queries=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def turned_source(x_shape=(1, 16, 16)):
    """Four upright classes, each turned in two more ways, with pixels between 0 and 1."""
    data = packed(num_classes=4, quarter_turns=(0, 1, 3), x_shape=x_shape)
    return PackedSource(replace(data, x=data.x / data.x.max()))


def test_tasks_of_features_are_the_features_of_the_tasks():
    source = turned_source()
    features = FeatureSource(source, lambda x: 2 * x.flatten(1)[:, :5])
    plain, found = (s.sample("train", SHAPE, 6, generator()) for s in (source, features))
    assert torch.equal(found.support_x, 2 * plain.support_x.flatten(2)[..., :5])
    assert torch.equal(found.query_x, 2 * plain.query_x.flatten(2)[..., :5])
    for name in ("support_y", "support_mask", "query_y", "query_mask", "num_ways"):
        assert torch.equal(torch.as_tensor(getattr(found, name)), torch.as_tensor(getattr(plain, name)))


def test_a_sample_is_encoded_once_in_each_turn():
    seen = []

    def function(x):
        seen.append(x)
        return x.flatten(1)

    features, draws = FeatureSource(turned_source(), function), generator()
    for _ in range(20):
        features.sample("train", SHAPE, 10, draws)
    samples = torch.cat(seen)
    assert len(samples) == 4 * 8 * 3
    assert len(samples.flatten(1).unique(dim=0)) == len(samples)


def test_features_are_not_trained_on():
    with pytest.raises(ValueError, match="cannot be augmented"):
        FeatureSource(turned_source(), torch.flatten).sample("train", SHAPE, 1, generator(), is_training=True)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("protonet", {}),
        ("protonet", {"norm": "group"}),
        ("matching", {}),
        ("matching", {"full_context": True, "num_reads": 2}),
        ("relation", {}),
        ("gnn", {"graph_dim": 16}),
    ],
    ids=str,
)
def test_sharing_features_judges_as_going_through_all_samples_does(name, changes):
    source = turned_source()
    settings = replace(default_settings(name), hidden_dim=8, **changes)
    learner = make_learner(name, settings, source.x_shape, 3, generator())
    for seed in range(3):  # averages of the normalisation that are not those of the start
        learner.loss(source.sample("train", SHAPE, 2, generator(seed)), generator())
    shared, tasks = sharing_features(learner, source)
    assert isinstance(tasks, FeatureSource)
    options = {"name": name, "split": "train", "num_tasks": 20}
    direct = evaluate_few_shot(learner, source, SHAPE, **options)
    found = evaluate_few_shot(shared, tasks, SHAPE, **options)
    assert found.accuracy == direct.accuracy and direct.unknown_auroc is not None
    for value in ("nll", "brier", "unknown_auroc"):
        assert getattr(found, value).mean == pytest.approx(getattr(direct, value).mean, rel=1e-5)
    assert found.ece == pytest.approx(direct.ece, rel=1e-4)


def test_learners_whose_features_depend_on_the_batch_go_through_all_samples():
    source = turned_source()
    for name, changes in (("protonet", {"norm": "batch"}), ("cnp", {}), ("maml", {})):
        settings = replace(default_settings(name), hidden_dim=8, **changes)
        learner = make_learner(name, settings, source.x_shape, 3, generator())
        assert sharing_features(learner, source) == (learner, source)


def test_classes_of_a_task_are_called_by_their_names():
    source, shape = turned_source(), EpisodeShape(ways=5, shots=1, queries=2)
    names = source.class_names("train", shape, generator(4))
    task = source.sampler("train").draw(shape, 1, generator(4))
    expected = []
    for sample, turn in zip(task.support_ids[0].tolist(), task.support_turns[0].tolist(), strict=True):
        expected.append(f"class {sample // 8}" + {0: "", 1: ", 90°", 3: ", 270°"}[turn])
    assert list(names) == expected and len(set(names)) == 5
