"""What `metarl list` says of data sets and few-shot learners: lines, which `metarl.listing` wraps."""

from __future__ import annotations

from dataclasses import fields

from metarl.fewshot import data, learners
from metarl.fewshot.presets import preset, preset_names, preset_source


def names() -> list[str]:
    """All data sets and few-shot learners."""
    return [*data.names(), *learners.names()]


def overview() -> dict[str, list[str]]:
    """Section -> one line for each of its entries."""
    return {
        "DATA SETS": [f"{name}: {data.find(name).description}" for name in data.names()],
        "FEW-SHOT LEARNERS": [f"{name}: {learners.find(name).description}" for name in learners.names()],
    }


def details(name: str) -> list[str]:
    """All about a data set or a few-shot learner; indented by what belongs to what."""
    if name in data.names():
        entry = data.find(name)
        options = [f"  --{f.name.replace('_', '-')} {_shown(f.default)}" for f in fields(data.options_type(name))]
        lines = [
            f"{name}: {entry.description}",
            f"  splits: {', '.join(entry.splits)}",
            f"  licence: {entry.licence}",
            "  options and their defaults",
            *(f"  {option}" for option in options),
        ]
        able = learners.names(for_numbers=entry.is_regression)
        return [*lines, "  presets", *(f"    {n}: {', '.join(preset_names(n, name))}" for n in able)]
    lines = [f"{name}: {learners.find(name).description}", "  presets"]
    for data_set in data.names():
        if data.find(data_set).is_regression and name not in learners.names(for_numbers=True):
            continue
        for preset_name in preset_names(name, data_set):
            training = preset(name, data_set, preset_name)[1]
            source = preset_source(name, data_set, preset_name)
            lines.append(
                f"    {data_set}, {preset_name}: {training.ways}-way {training.shots}-shot, "
                f"{training.num_updates:,} updates of {training.meta_batch_size} tasks{f'; {source}' if source else ''}"
            )
    return lines


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "(none)"
    return str(value)
