"""Explain a run: measure, distil, draw, and write one page."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl.distil import Distillation, distil
from metarl.errors import CheckpointError, ConfigError
from metarl.explain import page, pictures
from metarl.explain.measures import Measures, measure
from metarl.explain.page import Section, write_page
from metarl.files import reason
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.lives import learned_credit
from metarl.losses.formula import formula_of, is_formula, write_formula
from metarl.run import LoadedRun
from metarl.run_folder import write_json
from metarl.seeding import make_generator
from metarl.symbolic import INSTALL

FORMAT, VERSION = "metarl-explanation", 1


def explain(
    run: LoadedRun,
    out: Path,
    *,
    num_tasks: int = 16,
    num_validation_tasks: int = 64,
    skips_formula: bool = False,
    seed: int = 0,
) -> Path:
    """Write index.html, its pictures, explain.json and, where one is accepted, formula.json.

    Args:
        run: of `learned-loss`, with a learned reward, potential or advantage, or a formula of one.
        out: a folder.
        num_tasks: training tasks that the loss is looked at on.
        num_validation_tasks: tasks that formulas are tested on.
        skips_formula: do not distil.
        seed: of everything random.

    Returns:
        The page.

    Raises:
        ConfigError: another run; nothing is written then.
        CheckpointError: the files cannot be written.
    """
    credit = learned_credit(run.learner)
    assert isinstance(run.learner, LearnedLossLearner)
    learner, spec = run.learner, run.spec
    tasks = spec.tasks.sample_train(num_tasks, make_generator(seed, "explain"))
    measures = measure(learner, spec, tasks, seed)
    sections = _sections(measures)
    drawn = {
        "maps": pictures.maps(measures.inputs),
        "inputs": pictures.responses(measures.inputs),
        "landscapes": pictures.landscapes(measures),
        "cosines": pictures.cosines(measures),
        "tasks": pictures.tasks(measures.tasks),
    }
    if not measures.inputs.maps:
        del drawn["maps"]
        sections = [section for section in sections if section.name != "maps"]
    found, why_not = _distilled(run, learner, num_validation_tasks, skips_formula, seed)
    if found is not None:
        drawn["formulas"] = pictures.formulas(found)
        table = page.formula_html(found, credit.signals)
        sections.append(Section("formulas", "A formula for the loss", page.formulas_sentence(found), table))
    if why_not:
        sections.append(Section("", "On the formula" if found else "A formula for the loss", why_not))
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = {name: out / f"{name}.png" for name in drawn}
        for name, figure in drawn.items():
            figure.savefig(files[name], metadata={"Software": "metarl"})
        title = f"What the loss of {run.path.name} learned"
        write_page(
            out / "index.html", title, _lead(run, measures), page.short_sentences(measures, found), sections, files
        )
    except OSError as error:
        raise CheckpointError(f"cannot write the explanation: {reason(error, out.parent)}.") from error
    write_json(out / "explain.json", _numbers(run, measures, found, seed))
    if found is not None and found.formula is not None:
        write_formula(out / "formula.json", found.formula)
    return out / "index.html"


def _sections(measures: Measures) -> list[Section]:
    return [
        Section("maps", "The loss over pairs of inputs", page.maps_sentence(measures.inputs)),
        Section("inputs", "What the loss listens to", page.responses_sentence(measures.inputs)),
        Section("landscapes", "The landscape that a policy sees", page.landscapes_sentence(measures)),
        Section("cosines", "Does the loss point the right way?", page.cosines_sentence(measures)),
        Section("tasks", "How the loss adapts to the task", page.tasks_sentence(measures.tasks)),
    ]


def _distilled(
    run: LoadedRun, learner: LearnedLossLearner, num_validation_tasks: int, skips: bool, seed: int
) -> tuple[Distillation | None, str]:
    """The distillation, and what is to be said about it in words."""
    if skips:
        return None, "Left out by --skip-formula."
    if is_formula(learner.config.loss):
        return None, f"This loss is a formula already: {formula_of(learner.config.loss).to_text(4)}"
    made_by = {"run": str(run.path), "env": run.spec.name, "update": run.update}
    try:
        found = distil(learner, run.spec, num_validation_tasks=num_validation_tasks, seed=seed, made_by=made_by)
    except ConfigError as error:  # a loss that teaches nothing still has pictures
        return None, str(error)
    text = "" if found.used_symbolic_regression else f"Symbolic regression was left out; with it: {INSTALL}"
    return found, text


def _lead(run: LoadedRun, measures: Measures) -> str:
    start, end = (float(measures.returns[:, k].mean()) for k in (0, -1))
    return (
        f"A {measures.loss} on {run.spec.name}, after {run.env_steps:,} environment steps of meta-training. "
        f"All of this is from {measures.num_tasks} fresh policies, each on a training task of its own, which it takes "
        f"from a true return of {start:.3g} to {end:.3g} in {measures.num_updates} updates."
    )


def _numbers(run: LoadedRun, measures: Measures, found: Distillation | None, seed: int) -> dict[str, Any]:
    """Everything that is in the pictures, as JSON."""
    inputs, tasks = measures.inputs, measures.tasks

    def named(values: Tensor) -> dict[str, float]:
        return dict(zip(inputs.names, values.tolist(), strict=True))

    return {
        "format": FORMAT,
        "version": VERSION,
        "run": str(run.path),
        "env": run.spec.name,
        "update": run.update,
        "seed": seed,
        "loss": measures.loss,
        "num_tasks": measures.num_tasks,
        "returns": measures.returns.mean(0).tolist(),
        "inputs": {
            "share": named(inputs.shares),
            "direction": named(inputs.slopes),
            "partial_dependence": {
                inputs.names[i]: {"at": inputs.grids[i].tolist(), "mean": inputs.curves[i].mean(1).tolist()}
                for i in inputs.order
            },
            "maps": [
                {
                    "x": inputs.names[i],
                    "y": inputs.names[j],
                    "at_x": inputs.map_grids[i].tolist(),
                    "at_y": inputs.map_grids[j].tolist(),
                    "value": values.tolist(),
                }
                for (i, j), values in inputs.maps.items()
            ],
        },
        "landscapes": [
            {
                "update": land.update,
                "offsets": land.offsets.tolist(),
                "losses": {name: values.tolist() for name, values in land.losses.items()},
                "returns": land.returns.tolist(),
                "rank_correlation": land.correlations,
                "descent": land.descents,
            }
            for land in measures.landscapes
        ],
        "cosines": {name: values.tolist() for name, values in measures.cosines.items()},
        "tasks": {
            "strengths": tasks.strengths,
            "spread": tasks.spread,
            "axis": tasks.axis,
            "at": tasks.grid.tolist(),
            "responses": tasks.responses.tolist(),
            "parameter": tasks.parameter[0],
            "parameter_values": tasks.parameter_values.tolist(),
            "rank_correlation": tasks.parameter_correlation,
            "step_sizes": tasks.step_sizes.tolist(),
        },
        "formula": None if found is None else _formula_numbers(found),
    }


def _formula_numbers(found: Distillation) -> dict[str, Any]:
    task = found.task and {
        **asdict(found.task.adaptation),
        "decay_logit": found.task.decay_logit,
        "share": found.task.share,
        "r_squared": found.task.r_squared,
    }
    values = asdict(replace(found, task=None)) | {"task": task}
    values["formula"] = None if found.formula is None else found.formula.to_json()
    for one in values["candidates"]:
        one["r_squared"] = one["r_squared"] if torch.isfinite(torch.tensor(one["r_squared"])) else None
    return values
