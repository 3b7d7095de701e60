"""Episodes: which samples a task is made of, drawn right, and refused where the data cannot give them."""

from dataclasses import replace

import pytest
import torch

from metarl.errors import ConfigError, DataError, UnknownNameError
from metarl.fewshot.data.pack import Split
from metarl.fewshot.sampler import EpisodeSampler, EpisodeShape
from tests.fewshot.synthetic import packed


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sampler(data=None):
    return EpisodeSampler(packed() if data is None else data, "train")


def test_a_task_has_its_shots_and_queries_of_distinct_classes_and_no_sample_twice():
    data = packed()
    draw = sampler(data).draw(EpisodeShape(ways=4, shots=2, queries=3), 50, generator())
    assert draw.support_ids.shape == (50, 8) and draw.query_ids.shape == (50, 12)
    assert draw.support_mask.all() and draw.query_mask.all()
    for ids, labels in ((draw.support_ids, draw.support_y), (draw.query_ids, draw.query_y)):
        classes = data.class_ids[ids]
        for way in range(4):
            of_way = classes[labels == way].reshape(50, -1)
            assert (of_way == of_way[:, :1]).all()
    class_of_way = data.class_ids[draw.support_ids[:, :4]].sort(1).values
    assert (class_of_way.diff(dim=1) > 0).all()
    used = torch.cat([draw.support_ids, draw.query_ids], 1).sort(1).values
    assert (used.diff(dim=1) > 0).all()


def test_support_and_query_of_a_way_are_of_the_same_class():
    data = packed()
    draw = sampler(data).draw(EpisodeShape(ways=3, shots=1, queries=2), 20, generator())
    assert draw.support_y.tolist() == [[0, 1, 2]] * 20 and draw.query_y.tolist() == [[0, 1, 2, 0, 1, 2]] * 20
    assert torch.equal(data.class_ids[draw.query_ids[:, :3]], data.class_ids[draw.support_ids])
    assert torch.equal(data.class_ids[draw.query_ids[:, 3:]], data.class_ids[draw.support_ids])


def test_the_episode_holds_the_samples_that_were_drawn():
    data, shape = packed(), EpisodeShape(ways=3, shots=2, queries=2)
    episode, draw = sampler(data).sample(shape, 5, generator()), sampler(data).draw(shape, 5, generator())
    assert torch.equal(episode.support_x, data.x[draw.support_ids])
    assert torch.equal(episode.query_x, data.x[draw.query_ids])
    assert episode.num_ways == 3 and episode.x_shape == (1, 4, 4)


def test_a_seed_gives_the_same_tasks_and_another_seed_others():
    first, again, other = (sampler().sample(EpisodeShape(queries=3), 4, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.query_x, again.query_x)
    assert not torch.equal(first.query_x, other.query_x)


def test_all_classes_and_samples_come_up_equally_often():
    data = packed()
    draw = sampler(data).draw(EpisodeShape(ways=2, shots=1, queries=1), 6000, generator())
    counts = torch.cat([draw.support_ids, draw.query_ids]).flatten().bincount(minlength=48)
    expected = 24_000 / 48
    assert ((counts - expected).abs() < 6 * expected**0.5).all()


def test_a_turned_class_is_the_turned_image():
    data = packed(quarter_turns=(0, 1, 2, 3))
    turned = EpisodeSampler(data, "train")
    assert turned.num_classes == 24
    shape = EpisodeShape(ways=10, shots=1, queries=1)
    draw, episode = turned.draw(shape, 8, generator()), turned.sample(shape, 8, generator())
    assert set(draw.support_turns.flatten().tolist()) == {0, 1, 2, 3}
    assert torch.equal(draw.support_turns, draw.query_turns)
    for task in range(8):
        for i in range(10):
            image, turns = data.x[draw.support_ids[task, i]], int(draw.support_turns[task, i])
            assert torch.equal(episode.support_x[task, i], torch.rot90(image, turns, (-2, -1)))


def test_bytes_are_read_as_numbers_from_zero_to_one():
    data = replace(packed(), x=torch.full((48, 1, 4, 4), 255, dtype=torch.uint8))
    assert (sampler(data).sample(EpisodeShape(ways=2, queries=2), 2, generator()).query_x == 1).all()


def test_queries_come_from_other_groups_than_the_support_where_asked():
    data = packed(num_groups=4)
    shape = EpisodeShape(ways=3, shots=2, queries=4, pairing="other-group")
    draw = sampler(data).draw(shape, 100, generator())
    assert draw.support_mask.all() and draw.query_mask.all()
    for way in range(3):
        support = data.group_ids[draw.support_ids[draw.support_y == way]].reshape(100, -1)
        query = data.group_ids[draw.query_ids[draw.query_y == way]].reshape(100, -1)
        assert not (support.unsqueeze(2) == query.unsqueeze(1)).any()
    assert len(set(data.group_ids[draw.support_ids].flatten().tolist())) == 4


def test_what_is_missing_in_the_groups_is_padding_that_copies_samples_of_the_same_class():
    data = packed(num_groups=4)  # two samples of a class in each group, so four on each side
    shape = EpisodeShape(ways=2, shots=3, queries=6, pairing="other-group")
    draw = sampler(data).draw(shape, 10, generator())
    assert draw.support_mask.all() and draw.query_mask.sum(1).eq(8).all()
    assert torch.equal(data.class_ids[draw.query_ids[:, 0::2]], data.class_ids[draw.support_ids[:, :1]].expand(10, 6))


def test_ragged_tasks_have_between_min_shots_and_shots_of_every_class():
    data = packed()
    draw = sampler(data).draw(EpisodeShape(ways=3, shots=4, queries=2, min_shots=1), 200, generator())
    counts = torch.stack([((draw.support_y == way) & draw.support_mask).sum(1) for way in range(3)])
    assert counts.min() == 1 and counts.max() == 4 and len(counts.unique()) == 4
    assert not torch.equal(counts[0], counts[1])
    classes, first = data.class_ids[draw.support_ids], data.class_ids[draw.support_ids[:, :3]]
    assert torch.equal(classes, first.repeat(1, 4))


def test_queries_of_no_class_come_last_and_belong_to_none_of_the_tasks_classes():
    data = packed()
    draw = sampler(data).draw(EpisodeShape(ways=4, shots=1, queries=2, unknown_queries=5), 50, generator())
    assert draw.query_y.shape == (50, 13) and (draw.query_y[:, 8:] == -1).all() and draw.query_mask.all()
    task_classes, unknown = data.class_ids[draw.support_ids], data.class_ids[draw.query_ids[:, 8:]]
    assert not (task_classes.unsqueeze(2) == unknown.unsqueeze(1)).any()
    assert len(draw.query_ids[0, 8:].unique()) == 5


def test_augmentation_and_features_are_applied_to_all_samples():
    changed = EpisodeSampler(packed(), "train", augment=lambda x, g: x + 1, prepare=lambda x: x.flatten(1))
    plain = sampler()
    shape = EpisodeShape(ways=2, shots=1, queries=1)
    first, second = changed.sample(shape, 3, generator()), plain.sample(shape, 3, generator())
    assert changed.x_shape == (16,)
    assert torch.equal(first.support_x, second.support_x.flatten(2) + 1)


def test_more_ways_than_classes_are_refused_with_both_numbers():
    with pytest.raises(ConfigError, match="split train of numbers has 6 classes, too few for 7 ways"):
        sampler().sample(EpisodeShape(ways=7, queries=2), 1, generator())
    with pytest.raises(ConfigError, match="6 classes, too few for 6 ways and one more for the queries of no class"):
        sampler().sample(EpisodeShape(ways=6, queries=2, unknown_queries=1), 1, generator())


def test_a_class_with_too_few_samples_is_named_with_its_count():
    data = packed()
    data = replace(data, splits={"train": Split(torch.tensor([*range(24), *range(27, 48)]))})
    with pytest.raises(DataError, match=r"class class 3 has 5 samples, fewer than the 6 of a task \(1 .* 5 queries\)"):
        sampler(data).sample(EpisodeShape(ways=2, shots=1, queries=5), 1, generator())


def test_a_class_of_a_single_group_cannot_be_paired_with_another():
    with pytest.raises(DataError, match="class class 0 comes from a single group"):
        sampler(packed(num_groups=1)).sample(EpisodeShape(ways=2, pairing="other-group"), 1, generator())


def test_an_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(UnknownNameError, match=r"unknown split of numbers 'tran'. Did you mean 'train'"):
        EpisodeSampler(packed(), "tran")


@pytest.mark.parametrize(
    "wrong", [{"ways": 0}, {"shots": 0}, {"queries": 0}, {"min_shots": 2}, {"unknown_queries": -1}]
)
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EpisodeShape(**wrong)
