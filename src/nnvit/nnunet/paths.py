"""nnU-Net's folders, and the plans, splits and results of its data sets, with errors that list what exists."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnvit.errors import DataError, PlansError, did_you_mean
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def folder(variable: str) -> Path:
    """Returns the folder that an nnU-Net environment variable names. Raises DataError if it is unset or no folder."""
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


def plan_command(dataset: str | int, configuration: str = "2d") -> str:
    """Returns the command with which nnU-Net plans a data set; its -d takes a number, no name."""
    number = re.match(r"(?:Dataset)?(\d+)", str(dataset))
    return f"nnUNetv2_plan_and_preprocess -d {number[1] if number else 'ID'} -c {configuration}"


@dataclass(frozen=True)
class PreprocessedDataset:
    """A data set in nnUNet_preprocessed, with the plans made for it. name: `DatasetXXX_Name`."""

    name: str

    @classmethod
    def find(cls, name_or_id: str | int) -> "PreprocessedDataset":
        """Finds a data set by its name or number. Raises DataError that lists the known ones."""
        preprocessed = folder("nnUNet_preprocessed")
        known = sorted(path.name for path in preprocessed.glob("Dataset[0-9]*") if path.is_dir())
        try:
            name = maybe_convert_to_dataset_name(str(name_or_id))
        except (ValueError, RuntimeError) as error:
            if "More than one dataset name" in str(error):
                raise DataError(
                    f"several data sets have the number {name_or_id}; give the full name. {error}"
                ) from error
            name = str(name_or_id)
        if name in known:
            return cls(name)
        raise DataError(
            f"data set '{name_or_id}' is not preprocessed; {preprocessed} holds {', '.join(known) or 'no data set'}. If it is "
            f"in nnUNet_raw, run `{plan_command(name_or_id)}`; to import images and masks, run "
            f"`nnvit dataset import`.{did_you_mean(name, known)}"
        )

    def file(self, stem: str) -> Path:
        """Returns the path of a JSON file, such as a plans file, whether it exists or not."""
        return folder("nnUNet_preprocessed") / self.name / f"{stem}.json"

    def json(self) -> dict[str, Any]:
        """Reads dataset.json."""
        return read_json(self.file("dataset"))

    def plans(self, identifier: str) -> dict[str, Any]:
        """Reads plans. Raises PlansError that lists the existing plans files."""
        path = self.file(identifier)
        if not path.is_file():
            known = sorted(p.stem for p in path.parent.glob("*.json") if "configurations" in read_json(p))
            raise PlansError(
                f"{path.parent} holds no plans file '{identifier}.json'; it has {', '.join(known) or 'none'}. Run "
                f"`{plan_command(self.name)}`, or give another name with -p."
                f"{did_you_mean(identifier, known)}"
            )
        return read_json(path)

    def splits(self) -> list[dict[str, list[str]]] | None:
        """Reads splits_final.json, a list of each fold's `train` and `val` cases; None if nnU-Net has not written it yet."""
        path = self.file("splits_final")
        return read_json(path) if path.is_file() else None

    def results(self, model: ModelName) -> Path:
        """Returns the folder where nnU-Net puts the folds of a model."""
        return folder("nnUNet_results") / self.name / str(model)
