"""Policy gradients through the dynamics, for environments that are differentiable functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metarl.env import EnvSpec, Noise
from metarl.errors import ConfigError
from metarl.nets.distributions import ActionDistribution
from metarl.types import Continuous
from metarl.worlds import Spec

_MIN_STD = 1e-3


def is_differentiable(spec: Spec) -> bool:
    """Whether the return is a function of the actions that can be differentiated: tensors, and continuous actions."""
    return isinstance(spec, EnvSpec) and spec.physics is None and isinstance(spec.action_space, Continuous)


def takes_pathwise(setting: str, spec: Spec) -> bool:
    """Whether a learner takes the true return's gradient through the dynamics, by its setting `true_gradient`.

    Raises:
        ConfigError: it asks for that, and the environment has no such gradient.
    """
    if setting == "pathwise" and not is_differentiable(spec):
        raise ConfigError(
            f"true_gradient pathwise needs an environment without physics and with continuous actions, "
            f"which {spec.name} is not. Take score."
        )
    return setting != "score" and is_differentiable(spec)


def pathwise_gradient(
    spec: Spec,
    task: Tensor,
    parameters: Mapping[str, Tensor],
    distribution: Callable[[Mapping[str, Tensor], Tensor], ActionDistribution],
    num_episodes: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The gradient of the expected return by the parameters of each policy, one policy per task.

    Actions are mean + deviation * noise, so the return is a differentiable function of the parameters. Far less noisy
    than the likelihood-ratio gradient of the same episodes, where the dynamics are smooth. Returns are divided by
    their deviation over the episodes of a task, as advantages are.

    Source: Kingma and Welling 2014, section 2.4 (reparameterisation); Heess et al. 2015, SVG(infinity).

    Args:
        spec: an environment that `is_differentiable`.
        task: (B, P) task parameters.
        parameters: of B policies, (B, ...).
        distribution: (parameters, observations (B, E, O)) -> distributions of continuous actions.
        num_episodes: E.
        generator: of starts and actions.

    Raises:
        ConfigError: the reward does not depend differentiably on the actions.

    Returns:
        Gradients to ascend on, (B, ...) by name.
    """
    assert isinstance(spec, EnvSpec)
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    num_worlds = len(task) * num_episodes
    named = spec.tasks.unpack(task.repeat_interleave(num_episodes, 0))
    if spec.derive is not None:
        named |= spec.derive(named)

    def noise(counts: tuple[int, int]) -> Noise:
        uniform = torch.rand(num_worlds, counts[0], generator=generator, device=task.device)
        return Noise(uniform, torch.randn(num_worlds, counts[1], generator=generator, device=task.device))

    with torch.enable_grad():
        state = spec.reset(named, noise(spec.reset_noise)).state
        total = torch.zeros(num_worlds, device=task.device)
        running = torch.ones(num_worlds, device=task.device)
        for _ in range(spec.horizon):
            obs = spec.observe(named, {}, state).unflatten(0, (len(task), num_episodes))
            action = _Bounded.apply(distribution(leaves, obs).sample(generator).flatten(0, 1))
            outcome = spec.step(named, {}, state, action, noise(spec.step_noise))
            total = total + running * outcome.reward
            running = running * (1 - outcome.terminated.to(running.dtype))
            state = outcome.state
        returns = total.unflatten(0, (len(task), num_episodes))  # (B, E)
        scale = returns.detach().std(1, correction=0).clamp(min=_MIN_STD)
        objective = (returns.mean(1) / scale).sum()
        if not objective.requires_grad:
            raise ConfigError(f"the reward of {spec.name} is no differentiable function of actions. Take score.")
        slopes = torch.autograd.grad(objective, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


class _Bounded(torch.autograd.Function):
    """Actions clipped to [-1, 1], with the one-sided slope at the limit for those beyond it.

    What is to be ascended may want an action back inside, and says so; it cannot take it further out. The derivative of
    the clip is zero on both accounts, and nothing would ever tell a policy that its actions had grown too large
    (Hausknecht and Stone 2016, inverting gradients, for a critic's slopes).
    """

    @staticmethod
    def forward(ctx: Any, action: Tensor) -> Tensor:
        ctx.save_for_backward(action)
        return action.clamp(-1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (action,) = ctx.saved_tensors
        leads_out = ((action > 1) & (slope > 0)) | ((action < -1) & (slope < 0))
        return torch.where(leads_out, 0.0, slope)
