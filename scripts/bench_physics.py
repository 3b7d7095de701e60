"""Control steps per second: raw mujoco.batch, our BatchedEnv, gymnasium's vector environments, EnvPool.

All contenders of one size take turns in one process, so that a busy machine slows them alike; the table shows medians
and the median of the paired ratios to raw `Batch.step`. The rivals run HalfCheetah-v5 (EnvPool: v4, the same dynamics)
and are measured only beside environments of the half-cheetah.

    python scripts/bench_physics.py --envs track traffic --num-worlds 256 --compiled  # and as `--compile-env` trains
    python scripts/bench_physics.py --envs half-cheetah-vel-pearl track --num-worlds 1 16 256 4096
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _measure import RESULTS, median_ratio, paired_seconds, save, show
from mujoco import batch

import envs
from metarl.compiled import compile_spec
from metarl.env import BatchedEnv, EnvSpec

NUM_SEEDS_AHEAD = 64  # actions drawn beforehand, so that drawing them is not timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["half-cheetah-vel-pearl", "track"], help="environments by name")
    parser.add_argument("--num-worlds", nargs="+", type=int, default=[1, 16, 64, 256, 1024, 4096])
    parser.add_argument("--num-threads", type=int, default=0, help="threads of the engines, 0 for all cores")
    parser.add_argument("--steps", type=int, default=20_000, help="control steps of all worlds per contender and size")
    parser.add_argument("--sync-worlds", type=int, default=8, help="worlds of SyncVectorEnv, 0 for none")
    parser.add_argument("--async-worlds", type=int, default=0, help="worlds of AsyncVectorEnv, 0 for one per core")
    parser.add_argument("--compiled", action="store_true", help="also with compiled functions (up to a minute each)")
    parser.add_argument("--no-rivals", action="store_true", help="leave out gymnasium and EnvPool")
    parser.add_argument("--out", type=Path, default=RESULTS / "physics.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    measured: list[dict[str, Any]] = []
    for name in arguments.envs:
        spec = envs.make_spec(name)
        if spec.physics is None:
            parser.error(f"{name} has no physics to measure.")
        for num_worlds in arguments.num_worlds:
            with contextlib.ExitStack() as stack:
                contenders = {
                    "raw Batch.step": _raw(spec, num_worlds, arguments.num_threads),
                    "BatchedEnv.step": _ours(spec, num_worlds, arguments.num_threads),
                }
                if arguments.compiled:
                    compiled = _ours(compile_spec(spec), num_worlds, arguments.num_threads)
                    contenders["BatchedEnv.step, compiled"] = compiled
                if name.startswith("half-cheetah") and not arguments.no_rivals:
                    contenders |= stack.enter_context(_rivals(arguments, num_worlds))
                rows = _measure(contenders, max(5, arguments.steps // num_worlds))
            measured += [{"env": name, "num_worlds": num_worlds, **row} for row in rows]
            _show(name, num_worlds, rows)
    save(arguments.out, {"threads": arguments.num_threads or "all", "results": measured})


Contender = tuple[int, Callable[[], None]]
"""(worlds, one control step of all of them)"""


def _measure(contenders: dict[str, Contender], num_rounds: int) -> list[dict[str, Any]]:
    """Time rounds of about as many control steps for everybody: a short round would dodge other processes."""
    per_round = max(worlds for worlds, _ in contenders.values())
    repeats = {name: max(1, per_round // worlds) for name, (worlds, _) in contenders.items()}
    seconds = paired_seconds(
        {name: _repeated(step, repeats[name]) for name, (_, step) in contenders.items()}, num_rounds
    )
    num_steps = {name: worlds * repeats[name] for name, (worlds, _) in contenders.items()}
    rows = []
    for name, (worlds, _) in contenders.items():
        scale = num_steps[name] / num_steps["raw Batch.step"]
        ratio = median_ratio(seconds[name], seconds["raw Batch.step"], scale)
        rate = num_steps[name] / median(seconds[name])
        rows.append({"contender": name, "worlds": worlds, "steps_per_s": rate, "ratio_to_raw": ratio})
    return rows


def _repeated(step: Callable[[], None], num_repeats: int) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(num_repeats):
            step()

    return steps


def _show(name: str, num_worlds: int, rows: list[dict[str, Any]]) -> None:
    cells = [
        (row["contender"], str(row["worlds"]), f"{row['steps_per_s']:,.0f}", f"{row['ratio_to_raw']:.2f}")
        for row in rows
    ]
    show(f"{name}, {num_worlds} worlds", ("contender", "worlds", "control steps/s", "of raw"), cells)


def _raw(spec: EnvSpec, num_worlds: int, num_threads: int) -> Contender:
    """`mujoco.batch` alone: random controls inside their ranges, `num_substeps`, nothing computed after the step."""
    assert spec.physics is not None
    model, num_substeps = spec.physics.model, spec.physics.num_substeps
    pool = batch.Batch(model, num_worlds, num_threads)
    ctrl = pool.bind("ctrl")
    is_limited = model.actuator_ctrllimited.astype(bool)
    low = np.where(is_limited, model.actuator_ctrlrange[:, 0], -1.0)
    high = np.where(is_limited, model.actuator_ctrlrange[:, 1], 1.0)
    controls = np.random.default_rng(0).uniform(low, high, (NUM_SEEDS_AHEAD, num_worlds, model.nu))
    count = 0

    def step() -> None:
        nonlocal count
        if count % spec.horizon == 0:
            pool.reset()
        ctrl[:] = controls[count % NUM_SEEDS_AHEAD]
        pool.step(nstep=num_substeps)
        count += 1

    return num_worlds, step


def _ours(spec: EnvSpec, num_worlds: int, num_threads: int) -> Contender:
    env = BatchedEnv(spec, num_worlds, num_threads=num_threads)
    env.set_tasks(spec.tasks.split("train", num_worlds))
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(NUM_SEEDS_AHEAD, num_worlds, spec.action_space.input_dim, generator=generator) * 2 - 1
    count = 0

    def step() -> None:
        nonlocal count
        if count % spec.horizon == 0:
            env.reset()
        env.step(actions[count % NUM_SEEDS_AHEAD])
        count += 1

    return num_worlds, step


@contextlib.contextmanager
def _rivals(arguments: argparse.Namespace, num_worlds: int) -> Iterator[dict[str, Contender]]:
    """Gymnasium's vector environments and, where it is installed, EnvPool, stepping HalfCheetah."""
    with contextlib.ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        try:
            import gymnasium.envs.mujoco
        except ImportError as error:
            print(f"gymnasium's HalfCheetah is left out ({error}); `pip install 'gymnasium[mujoco]'` adds it.")
        else:
            num_async = arguments.async_worlds or os.cpu_count() or 1
            for label, mode, worlds in (("Sync", "sync", arguments.sync_worlds), ("Async", "async", num_async)):
                if worlds > 0:
                    env = gymnasium.make_vec("HalfCheetah-v5", num_envs=worlds, vectorization_mode=mode)
                    stack.callback(env.close)
                    contenders[f"gymnasium {label}VectorEnv"] = worlds, _gymnasium_step(env, worlds)
        try:
            import envpool
        except ImportError:
            print("EnvPool is left out; `pip install envpool` adds it.")
        else:
            pool = envpool.make(
                "HalfCheetah-v4", env_type="gymnasium", num_envs=num_worlds, num_threads=arguments.num_threads
            )
            stack.callback(pool.close)
            contenders["EnvPool"] = num_worlds, _gymnasium_step(pool, num_worlds)
        yield contenders


def _gymnasium_step(env: Any, num_worlds: int) -> Callable[[], None]:
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (NUM_SEEDS_AHEAD, num_worlds, 6))
    count = 0

    def step() -> None:
        nonlocal count
        env.step(actions[count % NUM_SEEDS_AHEAD])
        count += 1

    return step


if __name__ == "__main__":
    main()
