"""Policy objectives by name: what an algorithm's setting `loss` may say, besides `metarl.learned_loss`."""

from __future__ import annotations

from functools import partial

from metarl.errors import UnknownNameError
from metarl.losses.drift import dpo_drift, mirror_objective
from metarl.rl.ppo import PolicyObjective, clipped_surrogate


def policy_objective(loss: str, clip: float) -> PolicyObjective:
    """Look up what a policy ascends on.

    Args:
        loss: clip, PPO's clipped surrogate, or dpo, the closed form of Lu et al. 2022, which has no interval.
        clip: half-width of PPO's clipping interval.

    Raises:
        UnknownNameError: no such loss.
    """
    objectives: dict[str, PolicyObjective] = {
        "clip": partial(clipped_surrogate, clip=clip),
        "dpo": partial(mirror_objective, drift=dpo_drift),
    }
    if loss not in objectives:
        raise UnknownNameError("loss", loss, [*objectives, "learned:RUN", "formula:FILE"])
    return objectives[loss]
