"""Finds the arms of a comparison: an arm is one way of training, with its folds and its repeated runs.

An arm is a results folder of any nnU-Net 2 trainer (`Trainer__Plans__configuration` with fold_k/validation), a folder of
folds of masks, or a folder of masks.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnvit.errors import CompareError, did_you_mean
from nnvit.records.json_files import read_json

from .mask_files import ENDINGS, masks_in

SEED = re.compile(r"_s\d+$")
GENERIC = {
    "predicted", "predictions", "prediction", "preds", "validation", "masks", "segmentations", "labels", "out", "output"
}  # fmt: skip
"""Names of folders that say nothing about what made the masks."""
TRAINING = ("debug.json", "training_log_*", "nnvit_run.json", "checkpoint_*.pth", "progress.png")
"""Files that a training writes into its fold: pictures beside them are nnU-Net's, not masks."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One fold. name: "0", "all", or "" for a plain folder of masks. folder: holds its records. predictions: case -> mask."""

    name: str
    folder: Path
    predictions: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of an arm on one data set: all its folds.

    name: "" where the arm has one run. model: the folder with plans.json and dataset.json, None where there is none.
    unfinished: folds that were begun and hold no masks. plans: the content of plans.json.
    """

    dataset: str
    name: str = ""
    path: Path
    model: Path | None
    configuration: str
    folds: tuple[Fold, ...]
    unfinished: tuple[str, ...] = ()
    plans: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def _block(self) -> dict[str, Any]:
        """The block that nnvit adds to the configuration in plans.json."""
        return self.plans.get("configurations", {}).get(self.configuration, {}).get("nnvit", {})

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe in nnvit's plans; empty for other trainers."""
        return self._block.get("recipe", {})

    @property
    def recipe_hash(self) -> str:
        """The hash of the recipe, which leaves out the seed."""
        return self._block.get("hash", "")

    @property
    def seed(self) -> int | None:
        """The seed in the recipe."""
        return self.recipe.get("training", {}).get("seed")

    @property
    def predictions(self) -> dict[str, Path]:
        """Case -> mask, over all folds."""
        return {case: path for fold in self.folds for case, path in fold.predictions.items()}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training. name: as the report shows it. runs: one per data set and repetition."""

    name: str
    runs: tuple[Run, ...]

    @property
    def path(self) -> Path:
        """The folder of its first run."""
        return self.runs[0].path

    @property
    def datasets(self) -> list[str]:
        """Its data sets, in the order in which they were given."""
        return list(dict.fromkeys(run.dataset for run in self.runs))


def find_arms(
    given: Sequence[str | Path],
    *,
    datasets: Sequence[str] = (),
    configuration: str = "2d",
    folds: Sequence[str] | None = None,
    unnamed: str = "data",
) -> list[Arm]:
    """Returns the arms that `given` names: paths, names under nnUNet_results/<dataset>, or NAME=either.

    Runs form one arm if they are given one NAME or if their recipes differ only in the seed. unnamed: the name of the data
    set where no arm states one. Raises CompareError for arms that do not exist, are given twice or cannot be told apart.
    """
    found: list[tuple[str, Run]] = []
    for word in given:
        name, where = _split(str(word))
        for path, dataset in _folders(where, datasets, configuration):
            found.append((name, _run(path, dataset, configuration, folds)))
    _refuse_twice([run for _, run in found])
    found = _with_dataset(found, unnamed)
    arms = [Arm(name=name, runs=_number(runs)) for name, runs in _group(found).items()]
    _refuse_mixed(arms)
    return arms


def _split(word: str) -> tuple[str, str]:
    """Splits `NAME=PATH`; the name is empty where none is given."""
    name, equals, where = word.partition("=")
    if not equals or Path(word).exists():
        return "", word
    if not name.strip() or not where.strip():
        raise CompareError(f"'{word}' must be NAME=PATH, such as unet=results/nnUNetTrainer__nnUNetPlans__2d.")
    return name.strip(), where.strip()


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
    return [found for dataset in datasets for found in _under_results(where, dataset, configuration)]


def _under_results(word: str, dataset: str, configuration: str) -> list[tuple[Path, str]]:
    results = _results_of(dataset)
    models = sorted(path.name for path in results.iterdir() if path.is_dir() and path.name.count("__") == 2)
    matches = [name for name in models if name in (word, f"{word}__{configuration}")]
    if not matches:
        of_configuration = [name for name in models if name.endswith(f"__{configuration}")]
        matches = [name for name in of_configuration if _means(word, *name.split("__")[:2])]
    recipes = {SEED.sub("", name.removesuffix(f"__{configuration}")) for name in matches}
    if not matches:
        short = [name.removesuffix(f"__{configuration}") for name in models]
        raise CompareError(
            f"'{word}' is no arm in {results}, which holds {', '.join(models) or 'no results'}."
            f"{did_you_mean(word, short)} Give Trainer__Plans, the recipe's name, or a path."
        )
    if len(recipes) > 1:
        raise CompareError(
            f"'{word}' could be any of {', '.join(matches)} in {results}; give the whole name of the one you mean."
        )
    return [(results / name, dataset) for name in matches]


def _means(word: str, trainer: str, plans: str) -> bool:
    """Returns True if a word names the trainer, the plans, or the recipe in the plans' name, with or without its seed."""
    names = (plans, SEED.sub("", plans))
    return any(word == name or name.endswith(f"_{word}") for name in names) or (
        word == trainer and plans == "nnUNetPlans"
    )


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


# --- one run -----------------------------------------------------------------------------------------------------------


def _run(path: Path, dataset: str, configuration: str, wanted: Sequence[str] | None) -> Run:
    """Reads one folder. Raises CompareError where it holds nothing to compare."""
    folders = sorted(sub for sub in path.iterdir() if sub.is_dir() and sub.name.startswith("fold_"))
    if path.name == "validation" and path.resolve().parent.name.startswith("fold_"):
        path = path.resolve().parent
    if not folders and path.name.startswith("fold_") and (path / "validation").is_dir():
        return _run_of_folds(path, [path], dataset, configuration, None)
    if folders:
        return _run_of_folds(path, folders, dataset, configuration, wanted)
    masks = _loose_masks(path)
    if not masks:
        raise CompareError(
            f"{path} holds neither fold_0, fold_1, … nor masks ({', '.join(ENDINGS)}). An arm is a results folder "
            "(Trainer__Plans__configuration) with its validation masks, or a folder of predicted masks."
        )
    return _described(
        path, _model_of_masks(path), dataset, configuration, (Fold(name="", folder=path, predictions=masks),), ()
    )


def _loose_masks(folder: Path) -> dict[str, Path]:
    """The masks of a folder that holds only masks; empty for a folder that a training writes to."""
    return {} if any(any(folder.glob(name)) for name in TRAINING) else masks_in(folder)


def _model_of_masks(path: Path) -> Path | None:
    """The results folder around a folder of masks; else the folder itself, if nnUNetv2_predict copied the plans into it."""
    above = [folder for folder in list(path.resolve().parents)[:2] if any(folder.glob("fold_*"))]
    return next((folder for folder in (*above, path) if (folder / "plans.json").is_file()), None)


def _run_of_folds(
    path: Path, folders: Iterable[Path], dataset: str, configuration: str, wanted: Sequence[str] | None
) -> Run:
    there = {folder.name.removeprefix("fold_"): folder for folder in folders}
    missing = [name for name in wanted or () if name not in there]
    if missing:
        raise CompareError(
            f"{path} has no fold {', '.join(missing)}; it has {', '.join(there)}. "
            "Train the missing folds, or choose others with --folds."
        )
    found, unfinished = [], []
    for name in wanted if wanted is not None else there:
        folder = there[name]
        masks = masks_in(folder / "validation") or _loose_masks(folder)
        if masks:
            found.append(Fold(name=name, folder=folder, predictions=masks))
        else:
            unfinished.append(name)
    if not found or (wanted and unfinished):
        raise CompareError(
            f"{path}: {'fold ' + ', '.join(unfinished)} holds no masks in validation/, so there is nothing to compare. "
            "Finish the training, or run its validation with `nnUNetv2_train … --val` (`nnvit train … --val`)."
        )
    model = next((folder for folder in (path, path.parent) if (folder / "plans.json").is_file()), None)
    return _described(path, model, dataset, configuration, tuple(found), tuple(unfinished))


def _described(
    path: Path,
    model: Path | None,
    dataset: str,
    configuration: str,
    folds: tuple[Fold, ...],
    unfinished: tuple[str, ...],
) -> Run:
    """Adds the plans, and the data set and configuration that they name."""
    plans = read_json(model / "plans.json", CompareError) if model else {}
    configurations = plans.get("configurations", {})
    named = model.resolve().name.split("__")[-1] if model and model.resolve().name.count("__") == 2 else ""
    for choice in (named, configuration, *(configurations if len(configurations) == 1 else ())):
        if choice in configurations:
            configuration = choice
            break
    return Run(
        dataset=plans.get("dataset_name") or _dataset_in(path) or dataset,
        path=path,
        model=model,
        configuration=configuration,
        folds=folds,
        unfinished=unfinished,
        plans=plans,
    )


def _dataset_in(path: Path) -> str:
    return next((part for part in reversed(path.resolve().parts) if re.match(r"Dataset\d{3}_", part)), "")


# --- runs into arms ----------------------------------------------------------------------------------------------------


def _group(found: list[tuple[str, Run]]) -> dict[str, list[Run]]:
    """Name -> runs, grouped by the given name, the recipe, or (over several data sets) the folder's name."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for name, run in found:
        key = (
            ("name", name) if name else ("recipe", run.recipe_hash) if run.recipe_hash else ("folder", _model_name(run))
        )
        there = any(other.dataset == run.dataset for other in groups.get(key, ()))
        if key[0] == "folder" and (there or not _is_model(run)):  # equal names do not prove equal trainings
            key = ("path", str(run.path.resolve()))
        groups[key].append(run)
    names = {key: key[1] if key[0] == "name" else _short_name(runs[0]) for key, runs in groups.items()}
    taken = list(names.values())
    for key, runs in groups.items():  # where two arms would share a short name, both get the long one
        if taken.count(names[key]) > 1 and key[0] != "name":
            names[key] = _long_name(runs[0])
    for name in names.values():
        if list(names.values()).count(name) > 1:
            paths = ", ".join(str(runs[0].path) for key, runs in groups.items() if names[key] == name)
            raise CompareError(f"these arms would all be called '{name}': {paths}. Name them: NAME=PATH.")
    return {names[key]: runs for key, runs in groups.items()}


def _is_model(run: Run) -> bool:
    return _model_name(run).count("__") == 2


def _model_name(run: Run) -> str:
    return (run.model or run.path).resolve().name


def _short_name(run: Run) -> str:
    """The recipe's name without its seed; the trainer for stock plans; else the folder's name."""
    if run.recipe.get("name"):
        return SEED.sub("", run.recipe["name"])
    if _is_model(run):
        trainer, plans, _ = _model_name(run).split("__")
        return trainer if plans == "nnUNetPlans" else f"{trainer} {plans}"
    folder = run.path.resolve()
    return folder.parent.name if folder.name in GENERIC or folder.name.startswith("fold_") else folder.name


def _long_name(run: Run) -> str:
    return _model_name(run) if _is_model(run) else f"{run.path.resolve().parent.name}/{run.path.resolve().name}"


def _number(runs: list[Run]) -> tuple[Run, ...]:
    """Names repetitions on one data set by their seeds, or by numbers where seeds do not tell them apart."""
    numbered: list[Run] = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        same = [run for run in runs if run.dataset == dataset]
        seeds = [str(run.seed) for run in same]
        if len(same) == 1:
            numbered += same
        elif len(set(seeds)) == len(same) and "None" not in seeds:
            numbered += [
                replace(run, name=seed) for run, seed in sorted(zip(same, seeds, strict=True), key=lambda p: int(p[1]))
            ]
        else:
            numbered += [replace(run, name=str(number)) for number, run in enumerate(same)]
    return tuple(numbered)


def _with_dataset(found: list[tuple[str, Run]], unnamed: str) -> list[tuple[str, Run]]:
    """Gives folders of masks, which name no data set, that of the other arms, or else the name `unnamed`."""
    known = list(dict.fromkeys(run.dataset for _, run in found if run.dataset))
    bare = [run.path for _, run in found if not run.dataset]
    if bare and len(known) > 1:
        raise CompareError(
            f"{bare[0]} does not say which of the data sets it belongs to ({', '.join(known)}); "
            "put it into a folder of that name."
        )
    only = known[0] if known else unnamed
    return [(name, replace(run, dataset=run.dataset or only)) for name, run in found]


def _refuse_twice(runs: list[Run]) -> None:
    seen: dict[Path, Path] = {}
    for run in runs:
        path = run.path.resolve()
        if path in seen:
            raise CompareError(f"{run.path} is given twice; an arm is compared with others, not with itself.")
        seen[path] = run.path


def _refuse_mixed(arms: list[Arm]) -> None:
    """Raises CompareError where the runs of one arm are not of one recipe."""
    for arm in arms:
        hashes = {run.recipe_hash for run in arm.runs if run.recipe_hash}
        if len(hashes) > 1:
            paths = ", ".join(f"{run.path} ({run.recipe_hash[:8]})" for run in arm.runs)
            raise CompareError(
                f"the arm '{arm.name}' is given runs of different recipes: {paths}. Runs of one arm may differ in their "
                "seed only; give the others names of their own."
            )
        if len(arm.runs) > 1 and any(not run.recipe_hash for run in arm.runs) and hashes:
            raise CompareError(
                f"the arm '{arm.name}' mixes runs of nnvit with runs of another trainer; give them different names."
            )
