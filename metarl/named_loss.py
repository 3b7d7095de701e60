"""Learned losses by the names that a learner's settings have for them.

A setting names a loss as `learned:RUN` (`PREFIX`). The run that trains with it keeps a copy in its folder
(`FOLDER`), itself a run folder with one checkpoint, so that it needs the first one no longer (`metarl.run.build`).
Or it names a formula file as `formula:FILE`, whose content the run keeps in its configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metarl.errors import ConfigError, UnknownNameError
from metarl.learned_loss import LearnedLoss, LossOnEnv
from metarl.losses.formula import PREFIX as FORMULA_PREFIX
from metarl.losses.formula import is_formula
from metarl.worlds import Spec

PREFIX = "learned:"
FOLDER = "loss"


def named_loss(setting: str, spec: Spec, discount: float, device: str | torch.device) -> LossOnEnv | None:
    """The loss that a learner's setting names as `learned:RUN` or `formula:FILE`; None where it names none.

    Raises:
        CheckpointError: see `LearnedLoss.load`.
        ConfigError: see `LearnedLoss.from_formula`; or the environment lacks a signal that the loss reads.
    """
    if is_formula(setting):
        loss = LearnedLoss.from_formula(setting.removeprefix(FORMULA_PREFIX), device)
    elif setting.startswith(PREFIX):
        loss = LearnedLoss.load(setting.removeprefix(PREFIX), device)
    else:
        return None
    return loss.with_discount(discount).on(spec)


def named_reward(
    setting: str, spec: Spec, discount: float, device: str | torch.device, others: Sequence[str] = ()
) -> LossOnEnv | None:
    """The loss that a setting names (`named_loss`) and that shapes rewards; None for "own".

    `others` are names that the setting may have for what is no such loss; an error lists them.

    Raises:
        UnknownNameError: another name.
        CheckpointError, ConfigError: see `named_loss`; or the loss shapes no reward.
    """
    if setting == "own":
        return None
    found = named_loss(setting, spec, discount, device)
    if found is None:
        raise UnknownNameError("reward", setting, ("own", *others, f"{PREFIX}RUN", f"{FORMULA_PREFIX}FILE"))
    if found.loss.role != "reward":
        raise ConfigError(f"the loss is a learned {found.loss.kind}, which shapes no reward: name a learned reward.")
    return found
