"""`nnvit install`: models from untrusted zips of `nnvit export` or nnUNetv2_export_model_to_zip."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from nnvit.errors import ConfigError, DataError, PlansError
from nnvit.nnunet import paths
from nnvit.nnunet.checkpoint_file import FINAL
from nnvit.records.model_name import ModelName

from . import ShareResult
from .model_zip import BESIDE_MODELS, DATASET, ModelZip


def install(source: Path, name: str | None = None) -> ShareResult:
    """Unpacks a zip inside nnUNet_results, checks it there, and moves all its models into place, or none.

    name: of the data set, instead of the one in the zip. Raises DataError if it is no zip of nnU-Net models or does not fit on
    the disk, WeightsError for checkpoints that would run code, PlansError for a model that exists already.
    """
    source, results = source.expanduser(), paths.folder("nnUNet_results")
    with ModelZip.open(source) as given:
        targets = {model: _renamed(model, given.models, name) for model in given.models}
        _refuse_taken(results, list(targets.values()))
        _check_space(given.size, results)
        partial = Path(tempfile.mkdtemp(prefix=".nnvit_install_", dir=results))
        try:
            notes = given.unpack(partial)
            _move(partial, results, targets)
            notes += _move_rest(partial, results, given.members, targets)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    installed = [results / target for target in targets.values()]
    then = [line for model in installed for line in _commands(model)]
    return ShareResult(paths=installed, notes=notes, then=then, done="installed")


def _renamed(model: PurePosixPath, models: Sequence[PurePosixPath], name: str | None) -> PurePosixPath:
    """Returns the place of a model below nnUNet_results."""
    if name is None:
        return model
    if not DATASET.fullmatch(name):
        raise ConfigError(f"--name {name} must be of nnU-Net's form, such as Dataset900_Theirs.")
    if len(own := {model.parts[0] for model in models}) > 1:
        raise ConfigError(f"--name {name} is one name, but the zip holds {', '.join(sorted(own))}; leave it out.")
    return PurePosixPath(name, *model.parts[1:])


def _refuse_taken(results: Path, targets: Sequence[PurePosixPath]) -> None:
    """Raises PlansError if a model exists, and DataError if another data set has the number."""
    for target in targets:
        if (results / target).exists():
            raise PlansError(
                f"{results / target} exists and is left as it is. Install under another data set's name, such as"
                " --name Dataset900_Theirs, or move that folder away."
            )
    for target in targets:
        dataset = target.parts[0]
        homes = [Path(os.environ[name]) for name in paths.VARIABLES if os.environ.get(name)]
        others = {path.name for home in homes for path in home.glob(f"{dataset[:10]}_*")} - {dataset}
        if others:
            raise DataError(
                f"the number of {dataset} belongs to {', '.join(sorted(others))} here, and nnU-Net refuses a number with two"
                f" names. Install under a free one, such as --name Dataset{_free(homes)}{dataset[10:]}."
            )


def _free(homes: Sequence[Path]) -> int:
    taken = {path.name[7:10] for home in homes for path in home.glob("Dataset*")}
    return next(number for number in range(900, 10000) if str(number) not in taken)


def _check_space(needed: int, results: Path) -> None:
    free = shutil.disk_usage(results).free
    if needed > free:
        raise DataError(
            f"the models take {needed / 2**20:,.0f} MiB, and {results} has {free / 2**20:,.0f} MiB left. Make room, or point"
            " nnUNet_results to another disk."
        )


def _move(partial: Path, results: Path, targets: dict[PurePosixPath, PurePosixPath]) -> None:
    """Moves all models, or none."""
    moved: list[Path] = []
    try:
        for model, target in targets.items():
            (results / target).parent.mkdir(exist_ok=True)
            (partial / model).rename(results / target)
            moved.append(results / target)
    except OSError:
        for path in moved:
            shutil.rmtree(path)
        raise


def _move_rest(
    partial: Path, results: Path, members: dict[PurePosixPath, Any], targets: dict[PurePosixPath, PurePosixPath]
) -> list[str]:
    """Moves ensembles and nnU-Net's choice of configuration, unless they exist; returns notes on those that do."""
    datasets = {model.parts[0]: target.parts[0] for model, target in targets.items()}
    rest = sorted({PurePosixPath(*path.parts[:2]) for path in members if path.parts[1] in BESIDE_MODELS})
    notes = []
    for path in rest:
        target = results / datasets[path.parts[0]] / path.parts[1]
        if target.exists():
            notes.append(f"left {target} as it is")
        else:
            (partial / path).rename(target)
    return notes


def _commands(folder: Path) -> list[str]:
    """Returns the commands that predict with a model, quoted for a shell, since the names come from the zip."""
    model = ModelName.parse(folder.name)
    assert model is not None
    folds = sorted({path.parent.name.removeprefix("fold_") for path in folder.glob("fold_*/*.pth")})
    names = {path.name for path in folder.glob("fold_*/*.pth")}
    checkpoint = None if FINAL in names else min(names)
    ours = ["-m", str(folder), *([] if checkpoint is None else ["-chk", checkpoint])]
    return [
        f"predict: {model.predict_command(folder.parent.name, folds, checkpoint=checkpoint)}",
        f"     or: nnvit predict -i IMAGES -o OUT {shlex.join(ours)}",
    ]
