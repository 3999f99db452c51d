"""nnU-Net's folders, data sets and plans files, with errors that say what is there."""

import os
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnvit.errors import DataError, PlansError, did_you_mean
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def folder(variable: str) -> Path:
    """The folder that an nnU-Net environment variable names. Raises DataError where it is unset or absent."""
    value = os.environ.get(variable)
    if not value:
        exports = "\n".join(f"  export {name}=/path/to/{name}" for name in VARIABLES)
        raise DataError(
            f"the environment variable {variable} is not set; nnU-Net keeps its data there. Set all three:\n{exports}"
        )
    path = Path(value)
    if not path.is_dir():
        raise DataError(f"{variable}={value} is not a folder; create it (mkdir -p {value}) or correct the variable.")
    return path


def dataset_name(name_or_id: str | int) -> str:
    """`DatasetXXX_Name` of a data set given by name or number. Raises DataError that lists what there is."""
    preprocessed = folder("nnUNet_preprocessed")
    known = sorted(path.name for path in preprocessed.glob("Dataset[0-9]*") if path.is_dir())
    try:
        name = maybe_convert_to_dataset_name(str(name_or_id))
    except (ValueError, RuntimeError) as error:
        if "More than one dataset name" in str(error):
            raise DataError(
                f"the number {name_or_id} belongs to several data sets; give the full name. {error}"
            ) from error
        name = str(name_or_id)
    if name in known:
        return name
    raise DataError(
        f"data set '{name_or_id}' is not preprocessed; {preprocessed} holds {', '.join(known) or 'no data set'}. If it is "
        f"in nnUNet_raw, run `nnUNetv2_plan_and_preprocess -d {name_or_id} -c 2d`; images and masks come in by "
        f"`nnvit dataset import`.{did_you_mean(name, known)}"
    )


def model_folder(dataset: str, model: ModelName) -> Path:
    """Returns where nnU-Net puts the folds of a model."""
    return folder("nnUNet_results") / dataset / str(model)


def plans_path(dataset: str, identifier: str) -> Path:
    """Where a plans file lies, or would lie."""
    return folder("nnUNet_preprocessed") / dataset / f"{identifier}.json"


def read_plans(dataset: str, identifier: str) -> dict[str, Any]:
    """The plans of a data set. Raises PlansError that lists the plans files there are."""
    path = plans_path(dataset, identifier)
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.json") if "configurations" in read_json(p))
        raise PlansError(
            f"{path.parent} holds no plans file '{identifier}.json'; it has {', '.join(known) or 'none'}. Run "
            f"`nnUNetv2_plan_and_preprocess -d {dataset} -c 2d`, or name another one with -p.{did_you_mean(identifier, known)}"
        )
    return read_json(path)
