"""Finds the arms of a comparison: an arm is one way of training, with its folds and its repeated runs.

An arm is a results folder of any nnU-Net 2 trainer (`Trainer__Plans__configuration` with fold_k/validation), a folder of
folds of masks, or a folder of masks.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnvit.errors import CompareError, did_you_mean
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName

from .mask_files import ENDINGS, masks_in
from .training_records import Fold, Run

SEED = re.compile(r"_s\d+$")
GENERIC = {
    "predicted", "predictions", "prediction", "preds", "validation", "masks", "segmentations", "labels", "out", "output"
}  # fmt: skip
"""Names of folders that say nothing about what made the masks."""
TRAINING = ("debug.json", "training_log_*", "nnvit_run.json", "checkpoint_*.pth", "progress.png")
"""Files that a training writes into its fold: pictures beside them are nnU-Net's, not masks."""


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

    @property
    def trained(self) -> list[Fold]:
        """All folds that were trained, over all runs."""
        return [fold for run in self.runs for fold in run.trained]


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
    for word in map(str, given):
        name, equals, where = word.partition("=")
        if not equals or Path(word).exists():
            name, where = "", word
        elif not name.strip() or not where.strip():
            raise CompareError(f"'{word}' must be NAME=PATH, such as unet=results/nnUNetTrainer__nnUNetPlans__2d.")
        for path, dataset in _folders(where.strip() if name else where, datasets, configuration):
            run = _read_run(path, dataset, configuration, folds)
            if any(run.path.resolve() == other.path.resolve() for _, other in found):
                raise CompareError(f"{run.path} is given twice; an arm is compared with others, not with itself.")
            found.append((name.strip(), run))
    _name_datasets([run for _, run in found], unnamed)
    arms = [Arm(name=name, runs=_numbered(group)) for name, group in _group(found).items()]
    for arm in arms:
        _refuse_mixed(arm)
    return arms


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
    results = _results_of(dataset)
    models = sorted(path.name for path in results.iterdir() if path.is_dir() and ModelName.parse(path.name))
    matches = [name for name in models if name in (word, f"{word}__{configuration}")]
    if not matches:
        matches = [name for name in models if name.endswith(f"__{configuration}") and _means(word, name)]
    if not matches:
        short = [name.removesuffix(f"__{configuration}") for name in models]
        raise CompareError(
            f"'{word}' is no arm in {results}, which holds {', '.join(models) or 'no results'}."
            f"{did_you_mean(word, short)} Give Trainer__Plans, the recipe's name, or a path."
        )
    if len({SEED.sub("", name.removesuffix(f"__{configuration}")) for name in matches}) > 1:
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


# --- one run -----------------------------------------------------------------------------------------------------------


def _read_run(path: Path, dataset: str, configuration: str, wanted: Sequence[str] | None) -> Run:
    """Reads one folder. Raises CompareError where it holds nothing to compare."""
    if path.name == "validation" and path.resolve().parent.name.startswith("fold_"):
        path = path.resolve().parent
    folders = {
        folder.name.removeprefix("fold_"): folder
        for folder in sorted(path.iterdir())
        if folder.is_dir() and folder.name.startswith("fold_")
    }
    if not folders and path.name.startswith("fold_") and (path / "validation").is_dir():
        folders, wanted = {path.name.removeprefix("fold_"): path}, None
    if folders:
        return _run_of_folds(path, folders, dataset, configuration, wanted)
    masks = _loose_masks(path)
    if not masks:
        raise CompareError(
            f"{path} holds neither fold_0, fold_1, … nor masks ({', '.join(ENDINGS)}). An arm is a results folder "
            "(Trainer__Plans__configuration) with its validation masks, or a folder of predicted masks."
        )
    above = [folder for folder in list(path.resolve().parents)[:2] if any(folder.glob("fold_*"))]
    run = _described(path, (*above, path), dataset, configuration)  # nnUNetv2_predict copies the plans to its masks
    run.folds = (Fold(run=run, name="", folder=path, predictions=masks),)
    return run


def _run_of_folds(
    path: Path, folders: dict[str, Path], dataset: str, configuration: str, wanted: Sequence[str] | None
) -> Run:
    missing = [name for name in wanted or () if name not in folders]
    if missing:
        raise CompareError(
            f"{path} has no fold {', '.join(missing)}; it has {', '.join(folders)}. "
            "Train the missing folds, or choose others with --folds."
        )
    run = _described(path, (path, path.parent), dataset, configuration)
    for name in wanted if wanted is not None else folders:
        masks = masks_in(folders[name] / "validation") or _loose_masks(folders[name])
        if masks:
            run.folds += (Fold(run=run, name=name, folder=folders[name], predictions=masks),)
        else:
            run.unfinished += (name,)
    if not run.folds or (wanted and run.unfinished):
        raise CompareError(
            f"{path}: fold {', '.join(run.unfinished)} holds no masks in validation/, so there is nothing to compare. "
            "Finish the training, or run its validation with `nnUNetv2_train … --val` (`nnvit train … --val`)."
        )
    return run


def _loose_masks(folder: Path) -> dict[str, Path]:
    """The masks of a folder that holds only masks; empty for a folder that a training writes to."""
    return {} if any(any(folder.glob(name)) for name in TRAINING) else masks_in(folder)


def _described(path: Path, models: Sequence[Path], dataset: str, configuration: str) -> Run:
    """The run in `path`, still without folds, with the plans of the first of `models` that has any."""
    model = next((folder for folder in models if (folder / "plans.json").is_file()), None)
    plans = read_json(model / "plans.json", CompareError) if model else {}
    configurations = plans.get("configurations", {})
    named = ModelName.parse(model.resolve().name) if model else None
    only = list(configurations) if len(configurations) == 1 else []
    choices = [*([named.configuration] if named else []), configuration, *only]
    configuration = next((choice for choice in choices if choice in configurations), configuration)
    block = configurations.get(configuration, {}).get("nnvit", {})  # nnvit adds it to the configuration
    in_path = [part for part in path.resolve().parts if re.match(r"Dataset\d{3}_", part)]
    return Run(
        dataset=plans.get("dataset_name") or (in_path[-1] if in_path else dataset),
        path=path,
        model=model,
        configuration=configuration,
        plans=plans,
        recipe=block.get("recipe", {}),
        recipe_hash=block.get("hash", ""),
    )


# --- runs into arms ----------------------------------------------------------------------------------------------------


def _group(found: list[tuple[str, Run]]) -> dict[str, list[Run]]:
    """Name -> runs, grouped by the given name, the recipe, or (over several data sets) the folder's name."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for name, run in found:
        key = ("name", name) if name else ("recipe", run.recipe_hash) if run.recipe_hash else ("folder", _folder(run))
        there = any(other.dataset == run.dataset for other in groups.get(key, ()))
        if key[0] == "folder" and (there or not ModelName.parse(key[1])):  # equal names do not prove equal trainings
            key = ("path", str(run.path.resolve()))
        groups[key].append(run)
    names = {key: key[1] if key[0] == "name" else _short_name(runs[0]) for key, runs in groups.items()}
    taken = list(names.values())
    for key, runs in groups.items():  # where two arms would share a short name, both get the long one
        if taken.count(names[key]) > 1 and key[0] != "name":
            path, folder = runs[0].path.resolve(), _folder(runs[0])
            names[key] = folder if ModelName.parse(folder) else f"{path.parent.name}/{path.name}"
    for name in names.values():
        if list(names.values()).count(name) > 1:
            paths = ", ".join(str(runs[0].path) for key, runs in groups.items() if names[key] == name)
            raise CompareError(f"these arms would all be called '{name}': {paths}. Name them: NAME=PATH.")
    return {names[key]: runs for key, runs in groups.items()}


def _folder(run: Run) -> str:
    """The name of the results folder, or of the folder of masks where there is none."""
    return (run.model or run.path).resolve().name


def _short_name(run: Run) -> str:
    """The recipe's name without its seed; the trainer for stock plans; else the folder's name."""
    if run.recipe.get("name"):
        return SEED.sub("", run.recipe["name"])
    if model := ModelName.parse(_folder(run)):
        return model.trainer if model.plans == "nnUNetPlans" else f"{model.trainer} {model.plans}"
    folder = run.path.resolve()
    return folder.parent.name if folder.name in GENERIC or folder.name.startswith("fold_") else folder.name


def _numbered(runs: list[Run]) -> tuple[Run, ...]:
    """Names repetitions on one data set by their seeds, or by numbers where seeds do not tell them apart."""
    numbered: list[Run] = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        same = [run for run in runs if run.dataset == dataset]
        seeds = [run.seed for run in same if run.seed is not None]
        tell = len(set(seeds)) == len(same)
        if tell:
            same.sort(key=lambda run: run.seed or 0)
        for number, run in enumerate(same if len(same) > 1 else ()):
            run.name = str(run.seed if tell else number)
        numbered += same
    return tuple(numbered)


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


def _refuse_mixed(arm: Arm) -> None:
    """Raises CompareError where the runs of one arm are not of one recipe."""
    hashes = {run.recipe_hash for run in arm.runs}
    if len(hashes - {""}) > 1:
        paths = ", ".join(f"{run.path} ({run.recipe_hash[:8]})" for run in arm.runs)
        raise CompareError(
            f"the arm '{arm.name}' is given runs of different recipes: {paths}. Runs of one arm may differ in their "
            "seed only; give the others names of their own."
        )
    if len(hashes) > 1:
        raise CompareError(
            f"the arm '{arm.name}' mixes runs of nnvit with runs of another trainer; give them different names."
        )
