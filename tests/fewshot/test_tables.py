"""The tables of `scripts/reproduce_fewshot.py`: everything in them can be trained, and means are means."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from metarl.fewshot import learners
from metarl.fewshot.data import find, make_options

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import reproduce_fewshot as script
from _fewshot_tables import ALL, TABLES

PLAIN = argparse.Namespace(max_minutes=0.0, quick=False, device="cpu", torch_threads=1)


def evaluation(accuracy, ways=5, shots=1, unknown=None, queries=15):
    return {
        "split": "test",
        "shape": {"ways": ways, "shots": shots, "queries": queries, "pairing": "any"},
        "accuracy": {"mean": accuracy, "ci95": 0.01},
        "nll": {"mean": 2 * accuracy},
        "brier": {"mean": 0.5},
        "ece": 0.1,
        "ece_floor": 0.01,
        "scaled_ece": None,
        "unknown_auroc": unknown,
    }


def record(row, seed, *evaluations):
    return {"row": row, "variant": "", "seed": seed, "evaluations": list(evaluations)}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_can_be_trained_and_judged(name):
    table = TABLES[name]
    for values in table.variants.values():
        for row in table.rows:
            config = script.configuration(table, row, dict(values), 3, PLAIN)
            assert config.seed == 3
            assert config.data_options == make_options(table.data, {k: script._json(v) for k, v in values.items()})
            assert set(table.splits) <= set(find(table.data).splits)
    assert len({row.name for row in table.rows}) == len(table.rows)


def test_a_learner_with_a_head_is_judged_with_the_ways_that_it_was_trained_with():
    from metarl.fewshot.learners import _load
    from metarl.fewshot.presets import METRIC

    for name, table in TABLES.items():
        for row in table.rows:
            if row.learner not in METRIC:
                assert not _load(learners.find(row.learner).make).any_ways
                config = script.configuration(table, row, dict(next(iter(table.variants.values()))), 0, PLAIN)
                assert {ways for ways, _ in row.kinds} == {config.training.ways}, (name, row)


def test_the_calibration_table_has_all_learners():
    assert set(ALL) == set(learners.names())


def test_intervals_are_over_runs_where_there_are_several_and_over_tasks_where_there_is_one():
    known = {"mean": 0.8}
    records = [
        record("protonet", 0, evaluation(0.90), evaluation(0.95, shots=5, unknown=known)),
        record("protonet", 1, evaluation(0.94)),
        record("maml", 0, evaluation(0.80), evaluation(0.85, queries=1)),
    ]
    one_shot, five_shot, maml, few_queries = script.summarised(records)
    assert (one_shot["row"], one_shot["tasks"], one_shot["num_runs"]) == ("protonet", "5-way 1-shot", 2)
    assert one_shot["accuracy"] == pytest.approx(0.92) and one_shot["nll"] == pytest.approx(1.84)
    assert one_shot["ci95"] == pytest.approx(1.96 * 0.02)  # deviation 0.02 sqrt(2), over sqrt(2)
    assert one_shot["unknown_auroc"] is None and five_shot["unknown_auroc"] == 0.8
    assert five_shot["ci95"] == maml["ci95"] == 0.01
    assert (maml["queries"], few_queries["queries"], few_queries["accuracy"]) == (15, 1, 0.85)


def test_a_result_is_printed_as_markdown(tmp_path):
    result = {
        "runs": [record("protonet", 0, evaluation(0.9))],
        "published": {"values": {"ProtoNet": {"5-way 1-shot": 98.8}}},
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**result, "command": "python x", "commit": "0123456789", "date": "2026-01-02T03"}))
    lines = script.markdown(path).splitlines()
    assert (
        lines[2]
        == "| protonet | test | any | 5-way 1-shot | 15 | 1 | 90.00 ± 1.00 | 90.0 | 1.800 | 0.500 | 10.0 | - | - |"
    )
    assert lines[-2:] == ["- ProtoNet: 5-way 1-shot 98.8", "`python x`, commit 01234567, 2026-01-02."]
