"""Check and measure this package on a CUDA machine; prints tables, writes JSON.

Five parts: the two physics engines agree; the engine can be recorded into a CUDA graph of torch; control steps per
second, raw graph launches beside BatchedEnv; RL² meta-trains to a stated return; MAML-TRPO and a learned loss make a
few meta-iterations, timed, after which inner steps improve the return. Exit code 0 if all checks hold, 1 if one does
not, 2 without CUDA.

    python scripts/gpu_check.py
    python scripts/gpu_check.py --device cpu    # the same checks at small sizes, on warp's CPU device

On the CPU the numbers say nothing about a GPU, RL² trains for a few updates only, and its return is not judged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _measure import RESULTS, median_ratio, paired_seconds, save, show
from torch import Tensor

import envs
from metarl.config import RunConfig
from metarl.env import BatchedEnv, EnvSpec, Noise
from metarl.evaluate import evaluate
from metarl.learners import preset
from metarl.log import read_metrics
from metarl.physics import Engine
from metarl.physics.batch_engine import BatchEngine
from metarl.physics.warp_engine import WarpEngine
from metarl.run import load_run
from metarl.train import train

PARITY_WORLDS = 16
PARITY_STEPS = 20
# float32 against float64, relative to the largest value of a field. Contacts make single worlds chaotic: rounding
# errors of 1e-7 grow to 1e-2 in a second. So the median world is judged.
PARITY_TOLERANCE = 1e-3
STEPS_PER_ROUND = 20
ADAPTATION = (("maml-trpo", "point-navigation"), ("learned-loss", "reach-robots"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda[:i], or cpu for small sizes on warp's CPU device")
    parser.add_argument("--envs", nargs="+", default=["reach-planar", "track", "half-cheetah-vel-pearl"])
    parser.add_argument("--num-worlds", nargs="+", type=int, help="default 1k to 64k, on the CPU 4 and 16")
    parser.add_argument("--rounds", type=int, help=f"timed rounds of {STEPS_PER_ROUND} control steps")
    parser.add_argument("--rl2-env", default="reach-planar")
    parser.add_argument("--rl2-worlds", type=int, help="default 4096, on the CPU 64")
    parser.add_argument(
        "--rl2-steps",
        type=int,
        help="environment steps; default as many updates as the preset, on the CPU 20,000 steps",
    )
    parser.add_argument(
        "--target-return",
        type=float,
        default=11.0,
        help="IQM return of the last episode, which must also beat the first",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_check.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu_check: torch sees no CUDA device here; --device cpu runs the same checks at small sizes.")
        sys.exit(2)
    is_gpu = device.type == "cuda"
    torch.set_num_threads(1)

    specs = {name: envs.make_spec(name) for name in arguments.envs}
    parity = [check_parity(spec, device) for spec in specs.values()]
    show(
        f"engines agree over {PARITY_STEPS} control steps (tolerance {PARITY_TOLERANCE})",
        ("environment", "median world", "worst world", "failed worlds", ""),
        [
            (
                *(r["env"], f"{r['difference']:.1e}", f"{r['worst_difference']:.1e}"),
                *(str(r["failed"]), "ok" if r["ok"] else "WRONG"),
            )
            for r in parity
        ],
    )
    capture = [check_capture(spec, device) for spec in specs.values()] if is_gpu else []
    if capture:
        rows = [(r["env"], f"{r['difference']:.1e}", "ok" if r["ok"] else "WRONG") for r in capture]
        show("recorded into a CUDA graph of torch", ("environment", "difference to direct launches", ""), rows)

    sizes = arguments.num_worlds or ([1024, 4096, 16384, 65536] if is_gpu else [4, 16])
    rounds = arguments.rounds or (10 if is_gpu else 3)
    rates = [measure_rates(spec, n, device, rounds) for spec in specs.values() for n in sizes]
    show(
        "control steps per second",
        ("environment", "worlds", "raw launches", "deterministic", "BatchedEnv.step", "of raw", "failed"),
        [
            (
                *(r["env"], f"{r['num_worlds']:,}", f"{r['raw_steps_per_s']:,.0f}"),
                *(f"{r['deterministic_steps_per_s']:,.0f}", f"{r['env_steps_per_s']:,.0f}"),
                *(f"{r['env_of_raw']:.2f}", str(r["failed"])),
            )
            for r in rates
        ],
    )
    learning = check_learning(arguments, is_gpu)
    show(
        f"RL² on {learning['env']}, {learning['env_steps']:,} steps",
        ("episode", "IQM return", "95 % interval"),
        [
            (str(k + 1), f"{value:.2f}", f"{low:.2f} .. {high:.2f}")
            for k, (value, (low, high)) in enumerate(zip(learning["iqm_return"], learning["ci95_return"], strict=True))
        ],
    )
    adaptation = [check_adaptation(*pair, arguments.device, is_gpu) for pair in ADAPTATION]
    show(
        "learners that adapt by inner steps",
        ("algorithm", "environment", "tasks", "meta-iterations/s", "return before", "after", ""),
        [
            (
                *(r["algorithm"], r["env"], str(r["num_tasks"]), f"{r['iterations_per_s']:.2f}"),
                *(f"{r['iqm_return'][0]:.1f}", f"{r['iqm_return'][-1]:.1f}", "ok" if r["ok"] else "WRONG"),
            )
            for r in adaptation
        ],
    )
    checks = {"parity": parity, "capture": capture, "learning": [learning], "adaptation": adaptation}
    save(arguments.out, {"device": str(device), **checks, "rates": rates})
    wrong = [f"{part} on {r['env']}" for part, results in checks.items() for r in results if not r["ok"]]
    print("all checks hold" if not wrong else f"NOT as stated: {', '.join(wrong)}")
    sys.exit(1 if wrong else 0)


def check_parity(spec: EnvSpec, device: torch.device) -> dict[str, Any]:
    """Run both engines from the same start with the same controls, and compare all that the environment reads."""
    assert spec.physics is not None and spec.control is not None
    engines: list[Engine] = [
        BatchEngine(spec.physics, PARITY_WORLDS),
        WarpEngine(spec.physics, PARITY_WORLDS, device),
    ]
    task, state = _start(spec, engines)
    data = {name: engines[0].data(name) for name in spec.physics.data_fields}
    generator = torch.Generator().manual_seed(0)
    difference = torch.zeros(PARITY_WORLDS)
    for _ in range(PARITY_STEPS):
        action = torch.rand(PARITY_WORLDS, spec.action_space.input_dim, generator=generator) * 2 - 1
        _write(engines, spec.control(task, data, state, action))
        for engine in engines:
            engine.step()
        state = spec.step(task, data, state, action, _noise(spec.step_noise)).state
        for name in spec.physics.data_fields:
            reference = engines[0].data(name)
            scale = reference.abs().amax().clamp(min=1.0)
            field = ((engines[1].data(name).cpu() - reference).abs() / scale).flatten(1).amax(1)
            difference = torch.maximum(difference, field)
    failed = sum(int(engine.failed.sum()) for engine in engines)
    judged = float(difference.median())
    return {
        "env": spec.name,
        "difference": judged,
        "worst_difference": float(difference.max()),
        "failed": failed,
        "ok": judged <= PARITY_TOLERANCE and failed == 0,
    }


def check_capture(spec: EnvSpec, device: torch.device) -> dict[str, Any]:
    """Record write and step of the engine into a CUDA graph of torch; replaying equals launching directly."""
    assert spec.physics is not None
    ends = []
    for is_captured in (False, True):
        engine = WarpEngine(spec.physics, PARITY_WORLDS, device, deterministic=True)
        _start(spec, [engine])
        ctrl = torch.zeros_like(engine.data("ctrl"))

        def step(engine: WarpEngine = engine, ctrl: Tensor = ctrl) -> None:
            engine.write("ctrl", ctrl)
            engine.step()

        torch.cuda.synchronize()
        replay: Callable[[], None] = step
        if is_captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            replay = graph.replay
        generator = torch.Generator().manual_seed(0)
        for _ in range(PARITY_STEPS):
            ctrl.copy_(torch.rand(ctrl.shape, generator=generator) * 0.2 - 0.1)
            replay()
        torch.cuda.synchronize()
        ends.append(engine.data("qpos").cpu())
    difference = float((ends[0] - ends[1]).abs().amax())
    return {"env": spec.name, "difference": difference, "ok": difference <= 1e-5}


def measure_rates(spec: EnvSpec, num_worlds: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Control steps per second of the bare engine and of the environment around it, in turns."""
    assert spec.physics is not None
    env = BatchedEnv(spec, num_worlds, device=device, engine="warp")
    env.set_tasks(spec.tasks.split("train", num_worlds))
    bare = [WarpEngine(spec.physics, num_worlds, device, deterministic=d) for d in (False, True)]
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(STEPS_PER_ROUND, num_worlds, spec.action_space.input_dim, generator=generator) * 2 - 1
    actions = actions.to(device)
    failed = torch.zeros(num_worlds, dtype=torch.bool, device=device)
    left = 0

    def step_env() -> None:
        nonlocal left
        for action in actions:
            if left == 0:
                env.reset()
                left = spec.horizon
            failed.logical_or_(env.step(action).failed)
            left -= 1

    def launch(engine: Engine) -> None:
        for _ in range(STEPS_PER_ROUND):
            engine.step()

    calls = {"env": step_env, "raw": lambda: launch(bare[0]), "deterministic": lambda: launch(bare[1])}
    seconds = paired_seconds({name: _synchronised(call, device) for name, call in calls.items()}, rounds)
    rate = {name: num_worlds * STEPS_PER_ROUND / median(values) for name, values in seconds.items()}
    return {
        "env": spec.name,
        "num_worlds": num_worlds,
        "num_substeps": spec.physics.num_substeps,
        "raw_steps_per_s": rate["raw"],
        "deterministic_steps_per_s": rate["deterministic"],
        "env_steps_per_s": rate["env"],
        "env_of_raw": median_ratio(seconds["env"], seconds["raw"]),
        "failed": int(failed.sum()),
    }


def check_learning(arguments: argparse.Namespace, is_gpu: bool) -> dict[str, Any]:
    """Meta-train RL² and let it adapt to unseen tasks."""
    settings = preset("rl2", arguments.rl2_env)
    num_worlds = arguments.rl2_worlds or (4096 if is_gpu else 64)
    # As many updates as the preset makes, each on more worlds.
    total_steps = settings.total_steps * num_worlds // settings.num_worlds if is_gpu else 20_000
    settings = replace(settings, num_worlds=num_worlds, total_steps=arguments.rl2_steps or total_steps)
    config = RunConfig(algorithm="rl2", env=arguments.rl2_env, settings=settings, device=arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(config, Path(folder) / "run", validate_every=0)
        run = load_run(outcome.folder, arguments.device)
        evaluation = evaluate(
            run.learner, run.spec, algorithm="rl2", num_episodes=settings.episodes_per_trial, device=arguments.device
        )
    intervals = evaluation.ci95_return
    adapts = intervals[-1][0] > intervals[0][1]
    reached = adapts and evaluation.iqm_return[-1] >= arguments.target_return
    return {
        "env": arguments.rl2_env,
        "env_steps": outcome.env_steps,
        "target_return": arguments.target_return if is_gpu else None,
        "iqm_return": evaluation.iqm_return,
        "ci95_return": evaluation.ci95_return,
        "failed": evaluation.failed_worlds,
        "ok": outcome.finished and (reached or not is_gpu),
    }


def check_adaptation(algorithm: str, env: str, device: str, is_gpu: bool) -> dict[str, Any]:
    """A few meta-iterations of a learner that adapts by inner steps, all tasks at once, and what they are worth."""
    settings = preset(algorithm, env)
    num_tasks, num_updates = (256, 30) if is_gpu else (4, 3)
    horizon = envs.make_spec(env).horizon
    steps = num_tasks * settings.episodes_per_task * settings.episodes_per_trial * horizon
    settings = replace(settings, meta_batch_size=num_tasks, total_steps=num_updates * steps)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(RunConfig(algorithm, env, settings, device=device), Path(folder) / "run", validate_every=0)
        seconds = [m["time_collect_s"] + m["time_update_s"] for m in read_metrics(outcome.folder / "metrics.jsonl")]
        run = load_run(outcome.folder, device)
        evaluation = evaluate(
            run.learner,
            run.spec,
            algorithm=algorithm,
            num_episodes=settings.episodes_per_trial,
            episodes_per_task=settings.episodes_per_task,
            device=device,
        )
    gained = evaluation.iqm_return[-1] > evaluation.iqm_return[0]
    return {
        "algorithm": algorithm,
        "env": env,
        "num_tasks": num_tasks,
        "iterations_per_s": 1 / median(seconds),
        "iqm_return": evaluation.iqm_return,
        "failed": evaluation.failed_worlds,
        "ok": outcome.finished and gained,
    }


def _start(spec: EnvSpec, engines: list[Engine]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give the engines the same train tasks and start states; returns task and state of the environment."""
    assert spec.physics is not None
    task = spec.tasks.unpack(spec.tasks.split("train", PARITY_WORLDS))
    if spec.derive is not None:
        task |= spec.derive(task)
    start = spec.reset(task, _noise(spec.reset_noise))
    for engine in engines:
        if spec.physics.configure is not None:
            defaults = {name: engine.default_model_field(name).cpu() for name in spec.physics.model_fields}
            for name, value in spec.physics.configure(task, defaults).items():
                engine.set_model_field(name, value.to(engine.device))
            if spec.physics.uses_set_const:
                engine.set_const()
        engine.reset()
    _write(engines, start.writes)
    for engine in engines:
        engine.forward()
    return task, start.state


def _write(engines: list[Engine], values: Mapping[str, Tensor]) -> None:
    for engine in engines:
        for name, value in values.items():
            engine.write(name, value.to(engine.device))


def _noise(counts: tuple[int, int]) -> Noise:
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(PARITY_WORLDS, counts[0], generator=generator)
    return Noise(uniform, torch.randn(PARITY_WORLDS, counts[1], generator=generator))


def _synchronised(call: Callable[[], None], device: torch.device) -> Callable[[], None]:
    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


if __name__ == "__main__":
    main()
