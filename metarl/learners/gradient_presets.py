"""Settings of the gradient learners, by environment. `scripts/reproduce.py` runs them."""

from __future__ import annotations

from typing import Any

from metarl.learners.maml_trpo import MAMLTRPOConfig, as_anil, as_cavia, as_e_maml, as_fomaml, as_meta_sgd
from metarl.learners.promp import ProMPConfig
from metarl.learners.reptile import ReptileConfig

# 40 tasks, 20 episodes, inner steps of 0.1 (0.5 for the point) and KL 0.01 are those of Finn et al. 2017, appendix A.5;
# two layers of 64 with tanh those of Rothfuss et al. 2019: half the work of 100-100.
# On robots half the exploration and a shorter credit (the papers: 1 and 1) learned several times faster.
_ROBOT: dict[str, Any] = {"initial_std": 0.5, "gae_lambda": 0.95, "meta_batch_size": 20}
_SHARED: dict[str, dict[str, Any]] = {
    "bandit": {"inner_lr": 0.5, "total_steps": 4_000_000},
    "tabular-mdp": {"inner_lr": 0.5, "total_steps": 16_000_000},
    "point-navigation": {
        "inner_lr": 0.5,
        "total_steps": 10_000_000,
        "meta_batch_size": 20,
        "normalizes_obs": False,
        "gae_lambda": 0.95,
        "later_step_scale": 0.25,  # better than MAML's 0.5 on the validation tasks
    },
    "reach-planar": _ROBOT | {"total_steps": 16_000_000},
    "track": _ROBOT | {"total_steps": 16_000_000},
    "half-cheetah-dir": _ROBOT | {"total_steps": 6_000_000, "meta_batch_size": 10},  # there are two tasks only
    **{
        f"half-cheetah-{name}": _ROBOT | {"total_steps": 16_000_000, "episodes_per_task": 10}
        for name in ("vel-maml", "vel-pearl", "vel-promp", "vel-roml", "crippled", "gravity", "terrain")
    },
    "metaworld-ml10": _ROBOT | {"total_steps": 20_000_000, "episodes_per_task": 10},
    "metaworld-ml45": _ROBOT | {"total_steps": 90_000_000, "episodes_per_task": 10, "meta_batch_size": 45},
}
_METAWORLD = _ROBOT | {"total_steps": 2_000_000, "episodes_per_task": 10}


def maml_trpo(env: str) -> dict[str, MAMLTRPOConfig]:
    """Presets of `maml-trpo` for an environment; others start from what robots start from."""
    return {"default": MAMLTRPOConfig(**_settings(env))}


def fomaml(env: str) -> dict[str, MAMLTRPOConfig]:
    """Presets of `fomaml`."""
    return {name: as_fomaml(settings) for name, settings in maml_trpo(env).items()}


def anil(env: str) -> dict[str, MAMLTRPOConfig]:
    """Presets of `anil`."""
    return {name: as_anil(settings) for name, settings in maml_trpo(env).items()}


def meta_sgd(env: str) -> dict[str, MAMLTRPOConfig]:
    """Presets of `meta-sgd`."""
    return {name: as_meta_sgd(settings) for name, settings in maml_trpo(env).items()}


def cavia(env: str) -> dict[str, MAMLTRPOConfig]:
    """Presets of `cavia`."""
    return {name: as_cavia(settings) for name, settings in maml_trpo(env).items()}


def e_maml(env: str) -> dict[str, MAMLTRPOConfig]:
    """Presets of `e-maml`."""
    return {name: as_e_maml(settings) for name, settings in maml_trpo(env).items()}


def promp(env: str) -> dict[str, ProMPConfig]:
    """Presets of `promp` (Rothfuss et al. 2019, appendix: clip 0.3, 5 steps of Adam, KL weight 5e-4)."""
    return {"default": ProMPConfig(**_settings(env), inner_surrogate="ratio")}


def maml_ppo(env: str) -> dict[str, ProMPConfig]:
    """Presets of `maml-ppo`: those of `promp` without ratio and KL penalty in the inner steps."""
    return {"default": ProMPConfig(**_settings(env), inner_kl_coef=0.0)}


def reptile(env: str) -> dict[str, ReptileConfig]:
    """Presets of `reptile`, which needs several inner steps."""
    return {"default": ReptileConfig(**{**_settings(env), "num_inner_steps": 2})}


def _settings(env: str) -> dict[str, Any]:
    return _SHARED.get(env, _METAWORLD if env.startswith("metaworld-ml1-") else _ROBOT)
