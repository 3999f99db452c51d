"""The cost of each arm, from its records; None where they do not state it. Nothing is estimated."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .training_records import ArmRecords, Records


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """The cost of one arm, over all its runs and folds.

    flops: of predicting one patch. seconds_per_iteration: median; of data and step from nnvit_run.json, or, where an arm has
    none, for all arms an epoch's time over its training iterations (its validation included); seconds_per_iteration_of names
    which. train_hours: mean of one training of one fold. peak_memory_bytes, checkpoint_bytes: the largest.
    predict_seconds_per_case: median time from case to case in the final validation. device: all that were used.
    """

    arm: str
    parameters_total: int | None = None
    parameters_trainable: int | None = None
    flops: int | None = None
    seconds_per_iteration: float | None = None
    seconds_per_iteration_of: str | None = None
    train_hours: float | None = None
    peak_memory_bytes: int | None = None
    checkpoint_bytes: int | None = None
    predict_seconds_per_case: float | None = None
    device: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for stats.json."""
        return asdict(self)


def costs(records: Mapping[str, ArmRecords]) -> list[ArmCost]:
    """Returns the cost of each arm."""
    timed = all(_step_seconds(record) is not None for held in records.values() for record in held.trained)
    return [_cost(name, held.trained, _step_seconds if timed else _epoch_seconds) for name, held in records.items()]


def _cost(name: str, records: Sequence[Records], per_iteration: Callable[[Records], float | None]) -> ArmCost:
    def known(of: Callable[[Records], Any]) -> list[Any]:
        return [value for record in records if (value := of(record)) is not None]

    hours = known(_hours)
    return ArmCost(
        arm=name,
        parameters_total=max(known(lambda r: r.manifest.get("parameters", {}).get("total")), default=None),
        parameters_trainable=max(known(lambda r: r.manifest.get("parameters", {}).get("trainable")), default=None),
        flops=max(map(int, known(lambda r: r.manifest.get("flops_per_patch"))), default=None),
        seconds_per_iteration=_median(known(per_iteration)),
        seconds_per_iteration_of="data and step" if per_iteration is _step_seconds else "epoch, validation included",
        train_hours=sum(hours) / len(hours) if hours else None,
        peak_memory_bytes=max(known(lambda r: r.manifest.get("peak_memory_bytes")), default=None),
        checkpoint_bytes=max(known(_checkpoint_bytes), default=None),
        predict_seconds_per_case=_median(known(lambda r: _median(r.log.case_seconds))),
        device=", ".join(sorted({record.device for record in records if record.device})) or None,
    )


def _step_seconds(record: Records) -> float | None:
    """The sum of all parts of an iteration: 0.1.0 recorded data and step, later versions forward and backward as well."""
    parts = record.manifest.get("seconds_per_iteration")
    return float(sum(parts.values())) if parts else None


def _epoch_seconds(record: Records) -> float | None:
    iterations, seconds = record.debug.get("num_iterations_per_epoch"), _median(record.log.epoch_seconds)
    return seconds / int(str(iterations)) if str(iterations).isdigit() and seconds is not None else None


def _hours(record: Records) -> float | None:
    seconds = record.log.epoch_seconds
    return sum(seconds) / 3600 if seconds else None


def _checkpoint_bytes(record: Records) -> int | None:
    path = record.fold.folder / "checkpoint_final.pth"
    return path.stat().st_size if path.is_file() else None


def _median(values: Sequence[float]) -> float | None:
    """None if empty."""
    return float(np.median(values)) if len(values) else None
