"""What each arm costs, as far as its records tell; None where they do not. Nothing is estimated."""

from collections.abc import Callable, Iterable
from typing import Any

from .arms import Arm
from .training_records import Records, median, records_of


def costs(arms: Iterable[Arm]) -> list[dict[str, Any]]:
    """One dictionary per arm, over all its runs and folds.

    seconds_per_iteration: median; of data and step from nnvit_run.json, or, where an arm has none, for all arms an epoch's
    time over its training iterations (its validation included). train_hours: mean of one training of one fold.
    predict_seconds_per_case: median time from case to case in the final validation.
    """
    records = {arm.name: [record for run in arm.runs for record in records_of(run)] for arm in arms}
    timed = all(_step_seconds(record) is not None for found in records.values() for record in found)
    return (
        [_cost(name, found, _step_seconds if timed else _epoch_seconds) for name, found in records.items()]
        if records
        else []
    )


def _cost(name: str, records: list[Records], per_iteration: Callable[[Records], float | None]) -> dict[str, Any]:
    def middle(of: Callable[[Records], float | None]) -> float | None:
        return median(tuple(value for record in records if (value := of(record)) is not None))

    def largest(of: Callable[[Records], int | None]) -> int | None:
        return max((value for record in records if (value := of(record)) is not None), default=None)

    hours = [value for record in records if (value := _hours(record)) is not None]
    devices = sorted({device for record in records if (device := device_of(record))})
    return {
        "arm": name,
        "parameters_total": largest(lambda record: record.manifest.get("parameters", {}).get("total")),
        "parameters_trainable": largest(lambda record: record.manifest.get("parameters", {}).get("trainable")),
        "flops": largest(_flops),
        "seconds_per_iteration": middle(per_iteration),
        "seconds_per_iteration_of": "data and step" if per_iteration is _step_seconds else "epoch, validation included",
        "train_hours": sum(hours) / len(hours) if hours else None,
        "peak_memory_bytes": largest(lambda record: record.manifest.get("peak_memory_bytes")),
        "checkpoint_bytes": largest(_checkpoint_bytes),
        "predict_seconds_per_case": middle(lambda record: median(record.log.case_seconds)),
        "device": ", ".join(devices) or None,
    }


def device_of(record: Records) -> str | None:
    """`NVIDIA A100`, `cpu (x86_64, AVX512)`; None where no record tells."""
    debug = record.debug
    return record.manifest.get("device") or debug.get("gpu_name") or debug.get("device")


def _flops(record: Records) -> int | None:
    """Of predicting one patch."""
    held = record.manifest.get("flops_per_patch")
    return None if held is None else int(held)


def _step_seconds(record: Records) -> float | None:
    """Of data and step; 0.1.0 wrote these two, later versions forward, backward and step apart."""
    parts = record.manifest.get("seconds_per_iteration")
    return float(sum(parts.values())) if parts else None


def _epoch_seconds(record: Records) -> float | None:
    iterations, seconds = record.debug.get("num_iterations_per_epoch"), median(record.log.epoch_seconds)
    return seconds / int(str(iterations)) if str(iterations).isdigit() and seconds is not None else None


def _hours(record: Records) -> float | None:
    seconds = record.log.epoch_seconds
    return sum(seconds) / 3600 if seconds else None


def _checkpoint_bytes(record: Records) -> int | None:
    path = record.fold.folder / "checkpoint_final.pth"
    return path.stat().st_size if path.is_file() else None
