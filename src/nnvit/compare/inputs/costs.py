"""The cost of each arm, from its records; None where they do not state it. Nothing is estimated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .arms import Arm
from .training_records import Fold


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

    @classmethod
    def of_all(cls, arms: Sequence[Arm]) -> list[Self]:
        """Returns the cost of each arm, all timed in one way."""
        timed = all(_step_seconds(fold) is not None for arm in arms for fold in arm.trained)
        return [cls._of(arm, _step_seconds if timed else _epoch_seconds) for arm in arms]

    @classmethod
    def _of(cls, arm: Arm, per_iteration: Callable[[Fold], float | None]) -> Self:
        def known(of: Callable[[Fold], Any]) -> list[Any]:
            return [value for fold in arm.trained if (value := of(fold)) is not None]

        def largest(*keys: str) -> int | None:
            return max(known(lambda fold: fold.recorded(*keys)), default=None)

        hours = [sum(fold.log.epoch_seconds) / 3600 for fold in arm.trained if fold.log.epoch_seconds]
        checkpoints = [fold.folder / "checkpoint_final.pth" for fold in arm.trained]
        return cls(
            arm=arm.name,
            parameters_total=largest("parameters", "total"),
            parameters_trainable=largest("parameters", "trainable"),
            flops=max(map(int, known(lambda fold: fold.recorded("flops_per_patch"))), default=None),
            seconds_per_iteration=_median(known(per_iteration)),
            seconds_per_iteration_of="data and step"
            if per_iteration is _step_seconds
            else "epoch, validation included",
            train_hours=sum(hours) / len(hours) if hours else None,
            peak_memory_bytes=largest("peak_memory_bytes"),
            checkpoint_bytes=max((path.stat().st_size for path in checkpoints if path.is_file()), default=None),
            predict_seconds_per_case=_median(known(lambda fold: _median(fold.log.case_seconds))),
            device=", ".join(sorted({fold.device for fold in arm.trained if fold.device})) or None,
        )


def _step_seconds(fold: Fold) -> float | None:
    """The sum of all parts of an iteration: 0.1.0 recorded data and step, later versions forward and backward as well."""
    parts = fold.recorded("seconds_per_iteration")
    return float(sum(parts.values())) if parts else None


def _epoch_seconds(fold: Fold) -> float | None:
    iterations, seconds = fold.debug.get("num_iterations_per_epoch"), _median(fold.log.epoch_seconds)
    return seconds / int(str(iterations)) if str(iterations).isdigit() and seconds is not None else None


def _median(values: Sequence[float]) -> float | None:
    """None if empty."""
    return float(np.median(values)) if len(values) else None
