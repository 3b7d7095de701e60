"""From a data set's options to a source of tasks: the loader, and what becomes of its samples on the way."""

from __future__ import annotations

from pathlib import Path

import torch

from metarl.fewshot.data import omniglot as omniglot_data
from metarl.fewshot.sources import EpisodeSource, PackedSource


def omniglot(
    options: omniglot_data.OmniglotOptions, data_dir: Path | None, skips_broken: bool, device: torch.device | str
) -> EpisodeSource:
    """Omniglot."""
    return PackedSource(omniglot_data.load(options, data_dir, skips_broken), device)
