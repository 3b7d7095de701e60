"""The runs behind the few-shot tables: train, judge on unseen classes, put them beside what was published.

Runs that are there already are gone on with, and finished ones only judged; so an interrupted reproduction continues,
and seeds and learners can be added later. Runs lie in runs/fewshot/NAME/, numbers and pictures in
benchmarks/results/fewshot-NAME.*

    python scripts/reproduce_fewshot.py omniglot --data-dir DATA --learners protonet --seeds 0 1 2
    python scripts/reproduce_fewshot.py borealtc --quick           # does it run? everything goes to runs/quick/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from _fewshot_tables import TABLES, FewShotTable, Kind, Row
from _measure import RESULTS, circumstances, save, show

from metarl.errors import MetarlError
from metarl.fewshot.config import FewShotConfig
from metarl.fewshot.data import make_options, open_data
from metarl.fewshot.data.omniglot import official_runs
from metarl.fewshot.evaluate import FewShotEvaluation, evaluate_few_shot, judge_episode, sharing_features
from metarl.fewshot.pictures import reliability_diagram
from metarl.fewshot.presets import preset
from metarl.fewshot.run import LoadedFewShotRun, load_few_shot_run
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.train import train_few_shot
from metarl.run import resolve_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TABLES, metavar="NAME", help=", ".join(TABLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training; the test tasks are the same")
    parser.add_argument("--learners", nargs="+", metavar="ROW", help="some rows of the table; default: all")
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", help="some variants of the data; default: all")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="some of those that are judged; default: all")
    parser.add_argument("--max-minutes", type=float, default=0.0, help="of training each run; 0: as in the preset")
    parser.add_argument("--num-tasks", type=int, default=1000, help="that each run is judged on")
    parser.add_argument("--data-dir", type=Path, help="folder of the data; default $METARL_DATA, else download")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--train-only", action="store_true", help="leave the judging to a later call")
    parser.add_argument("--markdown", action="store_true", help="only print the table of the last result")
    parser.add_argument("--quick", action="store_true", help="two updates and few tasks, into runs/quick/")
    arguments = parser.parse_args()
    table, root, results = TABLES[arguments.name], Path("runs/fewshot"), RESULTS
    if arguments.quick:
        root = results = Path("runs/quick")
    if arguments.markdown:
        print(markdown(results / f"fewshot-{arguments.name}.json"))
        return
    rows = _chosen(parser, arguments.learners, {row.name: row for row in table.rows}, "row")
    variants = _chosen(parser, arguments.variants, dict(table.variants), "variant")
    splits = tuple(_chosen(parser, arguments.splits, {split: split for split in table.splits}, "split"))
    table = replace(table, splits=splits)
    torch.set_num_threads(arguments.torch_threads)
    records = earlier_records(results / f"fewshot-{arguments.name}.json")
    try:
        for variant, values in variants.items():
            for row in rows.values():
                for seed in arguments.seeds:
                    name = "-".join(part for part in (row.name, variant, f"seed{seed}") if part)
                    config = configuration(table, row, values, seed, arguments)
                    run = trained(root / arguments.name / name, config, arguments.data_dir)
                    if not arguments.train_only:
                        judged = judge(run, table, row, arguments)
                        key = {"row": row.name, "variant": variant, "seed": seed}
                        records = [r for r in records if {name: r[name] for name in key} != key]
                        records.append({**key, "judged": where_and_when(), **judged})
                        report(arguments.name, table, records, results)
    except MetarlError as error:
        parser.exit(2, f"reproduce_fewshot: {error}\n")


def earlier_records(path: Path) -> list[dict[str, Any]]:
    """The runs of an earlier call, which stay in the result unless they are judged again."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def where_and_when() -> dict[str, Any]:
    """The command, commit and date of a record, as those of the file are of the last call."""
    now = circumstances()
    return {name: now[name] for name in ("command", "commit", "date")}


def configuration(
    table: FewShotTable, row: Row, values: dict[str, Any], seed: int, arguments: argparse.Namespace
) -> FewShotConfig:
    """The preset with the row's differences; or two updates of it."""
    settings, training = preset(row.learner, table.data, row.preset)
    training = replace(training, **row.training)
    if arguments.max_minutes:
        training = replace(training, max_minutes=arguments.max_minutes)
    if arguments.quick:
        training = replace(training, num_updates=2, meta_batch_size=min(2, training.meta_batch_size))
    return FewShotConfig(
        learner=row.learner,
        data=table.data,
        settings=replace(settings, **row.settings),
        training=training,
        data_options=make_options(table.data, {name: _json(value) for name, value in values.items()}),
        seed=seed,
        device=resolve_device(arguments.device),
        torch_threads=arguments.torch_threads,
    )


def trained(out: Path, config: FewShotConfig, data_dir: Path | None) -> LoadedFewShotRun:
    """Begin a run, or go on with it; a finished one ends at once."""
    print(out, flush=True)
    resume = (out / "config.json").exists()
    outcome = train_few_shot(config, out, data_dir=data_dir, resume=resume, validate_every=0)
    if not outcome.finished:
        sys.exit(outcome.exit_code)
    return load_few_shot_run(out, config.device)


def judge(run: LoadedFewShotRun, table: FewShotTable, row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a run on every split and kind of task."""
    config, num_tasks = run.config, 20 if arguments.quick else arguments.num_tasks
    source = open_data(config.data, config.data_options, arguments.data_dir, device=config.device)
    learner, source = sharing_features(run.learner, source)
    evaluations: list[FewShotEvaluation] = []
    for split, pairing, queries, (ways, shots) in product(table.splits, table.pairings, row.queries, row.kinds):
        shape = EpisodeShape(ways=ways, shots=shots, queries=queries or shots, pairing=pairing)
        judged = evaluate_few_shot(
            learner, source, shape, name=row.name, split=split, num_tasks=num_tasks, device=config.device
        )
        evaluations.append(judged)
    result: dict[str, Any] = {
        "run": str(run.path),
        "updates": run.update,
        "train_s": run.train_s,
        "config": config.to_json(),
        "evaluations": [evaluation.to_json() for evaluation in evaluations],
    }
    reliability_diagram(run.path / "reliability.png", evaluations[: len(row.kinds)])
    if table.has_official_runs and run.learner.any_ways:
        share, hits = judge_episode(run.learner, official_runs(arguments.data_dir).to(config.device))
        result["official_runs"] = {"error": 1 - share, "right": hits}
    return result


def report(name: str, table: FewShotTable, records: Sequence[dict[str, Any]], results: Path) -> None:
    """Write what is known so far; print the means over seeds and variants."""
    summary = summarised(records)
    published = {"source": table.source, "values": {k: dict(v) for k, v in table.published.items()}}
    save(results / f"fewshot-{name}.json", {"name": name, "published": published, "summary": summary, "runs": records})
    header, rows = columns(summary)
    show(f"{name}: accuracy with the 95 % interval over tasks (one run) or over runs", header, rows)
    for method, values in table.published.items():
        print(f"  {method}: " + ", ".join(f"{kind} {value:g}" for kind, value in values.items()))
    errors = [100 * r["official_runs"]["error"] for r in records if "official_runs" in r]
    if errors:
        print("  error on Lake's official runs, %: " + " ".join(f"{error:.1f}" for error in errors))


def columns(summary: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a table."""
    header = ("learner", "split", "queries from", "tasks", "queries", "runs", "accuracy %", "per run")
    rows = [
        (
            s["row"],
            s["split"],
            s["pairing"],
            s["tasks"],
            str(s["queries"]),
            str(s["num_runs"]),
            f"{100 * s['accuracy']:.2f} ± {100 * s['ci95']:.2f}",
            " ".join(f"{100 * value:.1f}" for value in s["accuracies"][:6]),
            f"{s['nll']:.3f} ± {s['nll_ci95']:.3f}",
            f"{s['brier']:.3f} ± {s['brier_ci95']:.3f}",
            f"{100 * s['ece']:.1f} [{100 * s['ece_ci95'][0]:.1f}, {100 * s['ece_ci95'][1]:.1f}]",
            *("-" if s[k] is None else f"{100 * s[k]:.1f}" for k in ("scaled_ece", "unknown_auroc")),
        )
        for s in summary
    ]
    return (*header, "NLL", "Brier", "ECE %", "scaled", "AUROC %"), rows


def markdown(path: Path) -> str:
    """The table of a result, as Markdown."""
    result = json.loads(path.read_text())
    header, rows = columns(summarised(result["runs"]))
    lines = [header, tuple("---" for _ in header), *rows]
    published = [
        f"{method}: " + ", ".join(f"{kind} {value:g}" for kind, value in values.items())
        for method, values in result["published"]["values"].items()
    ]
    origin = f"`{result['command']}`, commit {result['commit'][:8]}, {result['date'][:10]}."
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *(f"- {p}" for p in published), origin])


def summarised(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over runs, of each row, split and kind of task.

    Intervals are 1.96 standard errors over runs where there are several, else those over the tasks of the only one.
    """
    groups: dict[tuple[str, str, str, Kind, int], list[dict[str, Any]]] = {}
    for record in records:
        for evaluation in record["evaluations"]:
            shape = evaluation["shape"]
            kind = (shape["ways"], shape["shots"])
            key = (record["row"], evaluation["split"], shape["pairing"], kind, shape["queries"])
            groups.setdefault(key, []).append(evaluation)
    rows = []
    for (row, split, pairing, (ways, shots), queries), of_runs in groups.items():
        accuracies = [e["accuracy"]["mean"] for e in of_runs]
        nlls, briers = ([e[name]["mean"] for e in of_runs] for name in ("nll", "brier"))
        errors, scaled = ([e[name] for e in of_runs] for name in ("ece", "scaled_ece"))
        unknown = [e["unknown_auroc"]["mean"] for e in of_runs if e["unknown_auroc"]]
        rows.append(
            {
                "row": row,
                "split": split,
                "pairing": pairing,
                "tasks": f"{ways}-way {shots}-shot",
                "queries": queries,
                "num_runs": len(of_runs),
                "accuracy": mean(accuracies),
                "ci95": _ci95(accuracies, of_runs[0]["accuracy"]["ci95"]),
                "accuracies": accuracies,
                "nll": mean(nlls),
                "nll_ci95": _ci95(nlls, of_runs[0]["nll"]["ci95"]),
                "brier": mean(briers),
                "brier_ci95": _ci95(briers, of_runs[0]["brier"]["ci95"]),
                "ece": mean(errors),
                "ece_ci95": _bounds(errors, of_runs[0]["ece_ci95"]),
                "ece_floor": mean(e["ece_floor"] for e in of_runs),
                "scaled_ece": None if None in scaled else mean(scaled),
                "unknown_auroc": mean(unknown) if unknown else None,
            }
        )
    return rows


def _ci95(values: Sequence[float], over_tasks: float) -> float:
    """Half the width of the interval of a mean over runs; `over_tasks` where there is one run."""
    return 1.96 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else over_tasks


def _bounds(values: Sequence[float], over_tasks: Sequence[float]) -> tuple[float, float]:
    """The same as lower and upper bound."""
    if len(values) == 1:
        return over_tasks[0], over_tasks[1]
    width = _ci95(values, 0.0)
    return mean(values) - width, mean(values) + width


def _chosen(parser: argparse.ArgumentParser, asked: Sequence[str] | None, known: dict[str, Any], kind: str) -> dict:
    for name in asked or ():
        if name not in known:
            parser.error(f"no {kind} {name}; available: {', '.join(known)}.")
    return {name: known[name] for name in asked or known}


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    main()
