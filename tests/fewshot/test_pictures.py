"""Pictures of few-shot tasks: what classes are called, and that what is drawn is written."""

import torch

from metarl.fewshot.pictures import _called, embedding_picture, episode_picture
from metarl.fewshot.sampler import EpisodeSampler, EpisodeShape
from tests.fewshot.synthetic import packed


def test_classes_are_called_by_the_last_two_parts_of_their_names_or_numbered():
    assert _called(["images_evaluation/Ge_ez/character11, 90°", "sandy_loam"], 2) == [
        "Ge ez\ncharacter11, 90°",
        "sandy loam",
    ]
    assert _called((), 2) == ["class 1", "class 2"]


def test_pictures_with_names_are_written_and_differ_from_those_without(tmp_path):
    class Flat(torch.nn.Module):
        def embed(self, x):
            return x.flatten(1)

    shape = EpisodeShape(ways=2, shots=1, queries=3)
    episode = EpisodeSampler(packed(), "train").sample(shape, 1, torch.Generator().manual_seed(0))
    log_probs = torch.full((1, 6, 2), 0.5).log()
    names = ("Greek/alpha", "Greek/beta")
    for draw in (
        lambda path, names: episode_picture(path, episode, log_probs, names),
        lambda path, names: embedding_picture(path, Flat(), episode, "title", names),
    ):
        named, numbered = draw(tmp_path / "named.png", names), draw(tmp_path / "numbered.png", ())
        assert named.read_bytes() != numbered.read_bytes()
