"""The arms of a comparison, found from folders, and their costs: an arm is one way of training, with its folds and repeated runs.

An arm is a results folder of any nnU-Net 2 trainer (`Trainer__Plans__configuration` with fold_k/validation), a folder of
folds of masks, or a folder of masks.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from nnvit.errors import CompareError, did_you_mean
from nnvit.records.model_name import ModelName

from .training_records import Fold, Run

SEED = re.compile(r"_s\d+$")
GENERIC = {
    "predicted", "predictions", "prediction", "preds", "validation", "masks", "segmentations", "labels", "out", "output"
}  # fmt: skip
"""Names of folders that say nothing about what made the masks."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training. name: as the report shows it. runs: one per data set and repetition."""

    name: str
    runs: tuple[Run, ...]

    @classmethod
    def find(
        cls,
        given: Sequence[str | Path],
        *,
        datasets: Sequence[str] = (),
        configuration: str = "2d",
        folds: Sequence[str] | None = None,
        unnamed: str = "data",
    ) -> "list[Arm]":
        """Returns the arms that `given` names: paths, names under nnUNet_results/<dataset>, or NAME=either.

        Runs form one arm if they are given one NAME or if their recipes differ only in the seed. unnamed: the name of the
        data set where no arm states one. Raises CompareError for arms that do not exist, are given twice or cannot be told
        apart.
        """
        found: list[tuple[str, Run]] = []
        for word in map(str, given):
            name, equals, where = word.partition("=")
            if not equals or Path(word).exists():
                name, where = "", word
            elif not name.strip() or not where.strip():
                raise CompareError(f"'{word}' must be NAME=PATH, such as unet=results/nnUNetTrainer__nnUNetPlans__2d.")
            for path, dataset in _folders(where.strip() if name else where, datasets, configuration):
                run = Run.read(path, dataset, configuration, folds)
                if any(run.path.resolve() == other.path.resolve() for _, other in found):
                    raise CompareError(f"{run.path} is given twice; an arm is compared with others, not with itself.")
                found.append((name.strip(), run))
        _name_datasets([run for _, run in found], unnamed)
        return [_arm(name, runs) for name, runs in _group(found).items()]

    @property
    def path(self) -> Path:
        """The folder of its first run."""
        return self.runs[0].path

    @property
    def datasets(self) -> list[str]:
        """Its data sets, in the order in which they were given."""
        return list(dict.fromkeys(run.dataset for run in self.runs))

    @property
    def trained(self) -> list[Fold]:
        """All folds that were trained, over all runs."""
        return [fold for run in self.runs for fold in run.trained]


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """The cost of one arm, over all its runs and folds; None where the records do not state it. Nothing is estimated.

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
        by_step = all(_step_seconds(fold) is not None for arm in arms for fold in arm.trained)
        return [cls._of(arm, by_step=by_step) for arm in arms]

    @classmethod
    def _of(cls, arm: Arm, *, by_step: bool) -> Self:
        def known(of: Callable[[Fold], Any]) -> list[Any]:
            return [value for fold in arm.trained if (value := of(fold)) is not None]

        def largest(*keys: str) -> int | None:
            return max(map(int, known(lambda fold: fold.recorded(*keys))), default=None)

        hours = [sum(fold.log.epoch_seconds) / 3600 for fold in arm.trained if fold.log.epoch_seconds]
        checkpoints = [fold.folder / "checkpoint_final.pth" for fold in arm.trained]
        return cls(
            arm=arm.name,
            parameters_total=largest("parameters", "total"),
            parameters_trainable=largest("parameters", "trainable"),
            flops=largest("flops_per_patch"),
            seconds_per_iteration=_median(known(_step_seconds if by_step else _epoch_seconds)),
            seconds_per_iteration_of="data and step" if by_step else "epoch, validation included",
            train_hours=sum(hours) / len(hours) if hours else None,
            peak_memory_bytes=largest("peak_memory_bytes"),
            checkpoint_bytes=max((path.stat().st_size for path in checkpoints if path.is_file()), default=None),
            predict_seconds_per_case=_median(known(lambda fold: _median(fold.log.case_seconds))),
            device=", ".join(sorted({fold.device for fold in arm.trained if fold.device})) or None,
        )


# --- where the folders are ---------------------------------------------------------------------------------------------


def _folders(where: str, datasets: Sequence[str], configuration: str) -> list[tuple[Path, str]]:
    """The folders that a word stands for, each with the data set under which it was found ("" for a path)."""
    path = Path(where).expanduser()
    if path.is_dir():
        return [(path, "")]
    if not datasets:
        raise CompareError(
            f"{where} is not a folder. Give a results folder (Trainer__Plans__configuration), a folder of masks, or a name "
            "under nnUNet_results together with --dataset."
        )
    return [(path, dataset) for dataset in datasets for path in _under_results(where, dataset, configuration)]


def _under_results(word: str, dataset: str, configuration: str) -> list[Path]:
    results, ending = _results_of(dataset), f"__{configuration}"
    models = sorted(path.name for path in results.iterdir() if path.is_dir() and ModelName.parse(path.name))
    exact = [name for name in models if name in (word, word + ending)]
    matches = exact or [name for name in models if name.endswith(ending) and _means(word, name)]
    if not matches:
        short = [name.removesuffix(ending) for name in models]
        raise CompareError(
            f"'{word}' is no arm in {results}, which holds {', '.join(models) or 'no results'}."
            f"{did_you_mean(word, short)} Give Trainer__Plans, the recipe's name, or a path."
        )
    if len({SEED.sub("", name.removesuffix(ending)) for name in matches}) > 1:
        raise CompareError(
            f"'{word}' could be any of {', '.join(matches)} in {results}; give the whole name of the one you mean."
        )
    return [results / name for name in matches]


def _means(word: str, folder: str) -> bool:
    """Returns True if a word names the trainer, the plans, or the recipe in the plans' name, with or without its seed."""
    trainer, plans, _ = folder.split("__")
    names = (plans, SEED.sub("", plans))
    stock = word == trainer and plans == "nnUNetPlans"
    return stock or any(word == name or name.endswith(f"_{word}") for name in names)


def _results_of(dataset: str) -> Path:
    value = os.environ.get("nnUNet_results", "")
    if not value or not Path(value).is_dir():
        raise CompareError(
            "--dataset looks for arms in the folder of the environment variable nnUNet_results, which is "
            f"{'not set' if not value else value + ', not a folder'}. Set it, or give the arms as paths."
        )
    known = sorted(path.name for path in Path(value).glob("Dataset*") if path.is_dir())
    number = f"Dataset{int(dataset):03d}_" if dataset.isdigit() else None
    matches = [name for name in known if name == dataset or (number and name.startswith(number))]
    if len(matches) != 1:
        raise CompareError(
            f"--dataset {dataset} is not in {value}, which holds {', '.join(known) or 'no data set'}."
            f"{did_you_mean(dataset, known)}"
        )
    return Path(value) / matches[0]


# --- runs into arms ----------------------------------------------------------------------------------------------------


def _group(found: list[tuple[str, Run]]) -> dict[str, list[Run]]:
    """Name -> runs, grouped by the given name, the recipe, or (over several data sets) the folder's name."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for name, run in found:
        keys = [("name", name), ("recipe", run.recipe_hash), ("folder", run.folder_name)]
        key = next((each for each in keys if each[1]), keys[-1])
        there = any(other.dataset == run.dataset for other in groups.get(key, ()))
        if key[0] == "folder" and (there or not ModelName.parse(key[1])):  # equal names do not prove equal trainings
            key = ("path", str(run.path.resolve()))
        groups[key].append(run)
    names = {key: key[1] if key[0] == "name" else _short_name(runs[0]) for key, runs in groups.items()}
    taken = list(names.values())
    for key, runs in groups.items():  # where two arms would share a short name, both get the long one
        if taken.count(names[key]) > 1 and key[0] != "name":
            path, folder = runs[0].path.resolve(), runs[0].folder_name
            names[key] = folder if ModelName.parse(folder) else f"{path.parent.name}/{path.name}"
    for name in names.values():
        if list(names.values()).count(name) > 1:
            paths = ", ".join(str(runs[0].path) for key, runs in groups.items() if names[key] == name)
            raise CompareError(f"these arms would all be called '{name}': {paths}. Name them: NAME=PATH.")
    return {names[key]: runs for key, runs in groups.items()}


def _short_name(run: Run) -> str:
    """The recipe's name without its seed; the trainer for stock plans; else the folder's name."""
    if run.recipe.get("name"):
        return SEED.sub("", run.recipe["name"])
    if model := ModelName.parse(run.folder_name):
        return model.trainer if model.plans == "nnUNetPlans" else f"{model.trainer} {model.plans}"
    folder = run.path.resolve()
    return folder.parent.name if folder.name in GENERIC or folder.name.startswith("fold_") else folder.name


def _arm(name: str, runs: list[Run]) -> Arm:
    """The arm of these runs; repetitions on one data set get the names of their seeds, or numbers where seeds are not distinct.

    Raises CompareError where the runs are not of one recipe.
    """
    hashes = {run.recipe_hash for run in runs}
    if len(hashes - {""}) > 1:
        paths = ", ".join(f"{run.path} ({run.recipe_hash[:8]})" for run in runs)
        raise CompareError(
            f"the arm '{name}' is given runs of different recipes: {paths}. Runs of one arm may differ in their "
            "seed only; give the others names of their own."
        )
    if len(hashes) > 1:
        raise CompareError(
            f"the arm '{name}' mixes runs of nnvit with runs of another trainer; give them different names."
        )
    ordered: list[Run] = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        same = [run for run in runs if run.dataset == dataset]
        distinct = len({run.seed for run in same} - {None}) == len(same)
        if distinct:
            same.sort(key=lambda run: run.seed or 0)
        for number, run in enumerate(same if len(same) > 1 else ()):
            run.name = str(run.seed if distinct else number)
        ordered += same
    return Arm(name=name, runs=tuple(ordered))


def _name_datasets(runs: list[Run], unnamed: str) -> None:
    """Gives folders of masks, which name no data set, that of the other arms, or else the name `unnamed`."""
    known = list(dict.fromkeys(run.dataset for run in runs if run.dataset))
    for run in runs:
        if not run.dataset and len(known) > 1:
            raise CompareError(
                f"{run.path} does not say which of the data sets it belongs to ({', '.join(known)}); "
                "put it into a folder of that name."
            )
        run.dataset = run.dataset or (known[0] if known else unnamed)


# --- costs -------------------------------------------------------------------------------------------------------------


def _step_seconds(fold: Fold) -> float | None:
    """The sum of all parts of an iteration: 0.1.0 recorded data and step, later versions forward and backward as well."""
    parts = fold.recorded("seconds_per_iteration")
    return float(sum(parts.values())) if parts else None


def _epoch_seconds(fold: Fold) -> float | None:
    iterations, seconds = fold.debug.get("num_iterations_per_epoch"), _median(fold.log.epoch_seconds)
    return seconds / int(str(iterations)) if str(iterations).isdigit() and seconds is not None else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
