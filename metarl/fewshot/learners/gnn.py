"""Few-shot learning with graph neural networks: a task is a graph, labels travel along learned edges to the query.

Each query has a graph of its own, whose nodes are the support and the query:

    x^0_i = [encoder(x_i), label of i]                      the label of the query: 1 / W for each class
    A_ij = softmax_j(MLP(|x_i - x_j|)),  j != i
    x^{k+1} = [x^k, leaky_relu(U x^k + V A x^k)]            k = 0 ... num_layers - 1
    p(class of the query) = softmax(U x + V A x)            at the query's node

Source: Garcia and Bruna 2018, "Few-Shot Learning with Graph Neural Networks", sections 4 and 5.1, eqs. 2 to 5, and
their released code. Deviations: each pair of nodes is judged once (A's logits are symmetric), so batch normalisation
counts it once; the encoder is that of the other learners.

The last layer has an output for each class, so relabelling the classes changes predictions a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError
from metarl.fewshot.encoders import EncoderSettings, Norm, initialise, make_encoder, norm_layers
from metarl.fewshot.learners.metric import MetricLearner, apply_where
from metarl.fewshot.types import Episode, require_ways


@dataclass(frozen=True)
class GNNSettings(EncoderSettings):
    """Settings of graph neural networks."""

    norm: Norm = "running"
    """Normalisation: batch (of the batch at hand, always), running (averages in evaluation), group or none."""
    num_layers: int = 2
    """Graph convolutions before the last one."""
    graph_dim: int = 96
    """Width of the network of the edges; nodes gain half as many features in each layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_layers < 0:
            raise ConfigError(f"num_layers must not be negative, got {self.num_layers}.")
        if self.graph_dim < 16 or self.graph_dim % 16:
            raise ConfigError(f"graph_dim must be a multiple of 16, got {self.graph_dim}.")


class GNN(MetricLearner):
    """Learner: labels travel through a graph; see the module.

    Args:
        settings: of the learner.
        x_shape: *X.
        num_ways: W, labels of a node and outputs.
        generator: of the initial weights.
    """

    any_ways = False

    def __init__(
        self, settings: GNNSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(make_encoder(settings, x_shape, generator), settings.norm)
        self.num_ways = num_ways
        gained = settings.graph_dim // 2
        widths = [self.encoder.embedding_dim + num_ways + gained * k for k in range(settings.num_layers + 1)]
        self.edges = nn.ModuleList(Edges(width, settings.graph_dim, settings.norm) for width in widths)
        outputs = [gained] * settings.num_layers + [num_ways]
        self.own = nn.ModuleList(nn.Linear(width, size) for width, size in zip(widths, outputs, strict=True))  # U
        self.others = nn.ModuleList(  # V
            nn.Linear(width, size, bias=False) for width, size in zip(widths, outputs, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.Sequential(*norm_layers(gained, settings.norm, 0)) for _ in range(settings.num_layers)
        )
        for part in (self.edges, self.own, self.others):
            initialise(part, generator)

    @torch.no_grad()
    def log_probs_of_features(self, episode: Episode) -> Tensor:
        """Log probabilities of the queries, (B, Q, W); task by task, for there are as many graphs as queries."""
        self.eval()
        return torch.cat([self.compare(episode.tasks(i, i + 1)) for i in range(episode.num_tasks)])

    def compare(self, episode: Episode) -> Tensor:
        """See `MetricLearner.compare`."""
        require_ways("gnn", self.num_ways, episode)
        support, query = episode.support_x, episode.query_x  # (B, S, D), (B, Q, D)
        label = nn.functional.one_hot(episode.support_y, self.num_ways).to(support.dtype)  # (B, S, W)
        unknown = query.new_full((*query.shape[:2], self.num_ways), 1 / self.num_ways)
        known_nodes = torch.cat([support, label], -1).unsqueeze(1).expand(-1, query.shape[1], -1, -1)
        node = torch.cat([torch.cat([query, unknown], -1).unsqueeze(2), known_nodes], 2)  # (B, Q, 1 + S, F)
        is_query = episode.query_mask.unsqueeze(-1)  # (B, Q, 1)
        mask = torch.cat([is_query, is_query & episode.support_mask.unsqueeze(1)], -1)  # (B, Q, 1 + S)
        logits = self.of_graphs(node.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, query.shape[:2])
        return logits.log_softmax(-1)

    def of_graphs(self, node: Tensor, mask: Tensor) -> Tensor:
        """Logits (G, W) of the first node of G graphs.

        Args:
            node: (G, N, F), [embedding, label] of each node.
            mask: (G, N) bool, false where there is no node.
        """
        for edges, own, others, norm in zip(self.edges, self.own, self.others, self.norms, strict=False):
            added = own(node) + others(edges(node, mask) @ node)  # (G, N, F')
            node = torch.cat([node, nn.functional.leaky_relu(apply_where(norm, added, mask))], -1)
        from_others = self.edges[-1](node, mask)[:, :1] @ node  # (G, 1, F)
        return (self.own[-1](node[:, :1]) + self.others[-1](from_others)).squeeze(1)


class Edges(nn.Module):
    """The adjacency of a layer: a learned similarity of every two nodes, normalised over the neighbours of each.

    Args:
        node_dim: F.
        hidden_dim: width; the layers have 2, 2, 1 and 1 times as many units.
        norm: normalisation.
    """

    def __init__(self, node_dim: int, hidden_dim: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = node_dim
        for units in (2 * hidden_dim, 2 * hidden_dim, hidden_dim, hidden_dim):
            layers += [nn.Linear(width, units), *norm_layers(units, norm, 0), nn.LeakyReLU()]
            width = units
        self.similarity = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, node: Tensor, mask: Tensor) -> Tensor:
        """A, (G, N, N), rows that sum to one, zero on the diagonal of what is there; node (G, N, F), mask (G, N)."""
        size = node.shape[1]
        i, j = torch.triu_indices(size, size, 1, device=node.device)  # (N (N - 1) / 2,) each
        distance = (node[:, i] - node[:, j]).abs()  # (G, pairs, F)
        similarity = apply_where(self.similarity, distance, mask[:, i] & mask[:, j]).squeeze(-1)  # (G, pairs)
        # Not infinite, so that the row of a node without neighbours is finite; nobody looks at such a node.
        nothing = torch.finfo(node.dtype).min
        logits = node.new_full((len(node), size, size), nothing)
        logits[:, i, j] = similarity
        logits[:, j, i] = similarity
        return logits.masked_fill(~mask.unsqueeze(1), nothing).softmax(-1)
