"""The arms' costs, from their records; None where a record is missing."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from nnvit.compare.inputs.arms import Arm, ArmCost
from tests.compare.planted import Study


def costs_of(*given: str | Path) -> list[ArmCost]:
    return ArmCost.of_all(Arm.find(given))


def test_two_arms_of_nnvit_are_timed_by_their_steps(study: Study) -> None:
    model = study.results / "nnUNetTrainer_nnvit__nnUNetPlans_vit_s0__2d"
    (cost,) = costs_of(model)
    assert asdict(cost) == {
        "arm": "vit",
        "parameters_total": 26844386,
        "parameters_trainable": 4788194,
        "flops": 12_000_000_000,
        "seconds_per_iteration": pytest.approx(1.0),
        "seconds_per_iteration_of": "data and step",
        "train_hours": pytest.approx(30 / 3600),
        "peak_memory_bytes": 1783361536,
        "checkpoint_bytes": 1000,
        "predict_seconds_per_case": 2.0,
        "device": "cpu (x86_64, AVX512)",
    }


def test_an_iteration_is_all_its_parts_however_many_a_version_wrote(study: Study) -> None:
    model = study.results / "nnUNetTrainer_nnvit__nnUNetPlans_vit_s0__2d"
    for path in model.glob("fold_*/nnvit_run.json"):
        seconds = {"data_wait": 0.25, "forward": 0.5, "backward": 1.0, "step": 0.25}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds_per_iteration": seconds}))
    (cost,) = costs_of(model)
    assert cost.seconds_per_iteration == 2.0


def test_beside_a_stock_arm_all_are_timed_in_the_one_way_that_both_record(study: Study) -> None:
    found = {cost.arm: cost for cost in costs_of(*study.results.iterdir())}
    assert {cost.seconds_per_iteration for cost in found.values()} == {2.0}
    assert {cost.seconds_per_iteration_of for cost in found.values()} == {"epoch, validation included"}
    stock = found["nnUNetTrainer"]
    assert {getattr(stock, key) for key in ("parameters_total", "flops", "peak_memory_bytes")} == {None}
    assert stock.predict_seconds_per_case == 2.0
    assert stock.device == "cpu"


def test_masks_alone_cost_nothing_that_is_known(study: Study) -> None:
    (cost,) = costs_of(f"plain={study.references}")
    assert {value for key, value in asdict(cost).items() if key not in ("arm", "seconds_per_iteration_of")} == {None}
