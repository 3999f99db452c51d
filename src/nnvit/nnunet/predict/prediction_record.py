"""The outcome of `nnvit predict`, and its record `nnvit_predict.json`: the model and settings that made each mask."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnvit import __version__
from nnvit.errors import ConfigError, DataError
from nnvit.records.json_files import read_json, write_json

_NAME = "nnvit_predict.json"


@dataclass(kw_only=True)
class PredictionOutcome:
    """Names of the photographs or cases that were predicted, were kept, or failed (name -> reason)."""

    predicted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    out: Path

    def lines(self) -> list[str]:
        """Returns the closing line for the user."""
        kept = f", {len(self.kept)} kept" if self.kept else ""
        failed = f", {len(self.failed)} FAILED" if self.failed else ""
        return [f"{len(self.predicted)} predicted{kept}{failed}: {self.out}"]


class PredictionRecord:
    """The record of one output folder, which also reads the records of its other parts (`-num_parts`).

    Only masks that a record names are ever overwritten.
    settings: those of this run; parts: (number of parts, index of this one).
    """

    def __init__(self, out: Path, settings: dict[str, Any], parts: tuple[int, int]) -> None:
        self.out, self.settings = out, settings
        number, part = parts
        self.path = out / (_NAME if number == 1 else _NAME.replace(".json", f"_part{part}of{number}.json"))
        self.made: dict[str, dict[str, Any]] = {}
        """Mask -> the settings that it was made with."""
        self.photographs: dict[str, str] = {}
        """Mask -> photograph."""
        records = out.glob(_NAME.replace(".json", "*.json"))
        for path in sorted(records, key=lambda path: path.stat().st_mtime_ns):  # the last writer made the mask
            self._read(path)

    def refuse_foreign(self, masks: list[str]) -> None:
        """Raises DataError for existing files that nnvit predict did not write."""
        foreign = [mask for mask in masks if mask not in self.made]
        if foreign:
            raise DataError(
                f"{self.out} holds {len(foreign)} files with the names of masks to be written that nnvit predict did not "
                f"write, e.g. {foreign[0]}; give another -o, or move them away."
            )

    def refuse_made_otherwise(self, masks: list[str]) -> None:
        """Raises ConfigError if one of the masks to keep was made with another model or other settings."""
        for mask in masks:
            made = self.made[mask]
            differ = [f"{key} {made.get(key)}, now {now}" for key, now in self.settings.items() if made.get(key) != now]
            if differ:
                raise ConfigError(
                    f"--continue_prediction: {self.out / mask} was predicted with {'; '.join(differ)}; continuing would mix "
                    "the two. Predict with the same settings, or give another -o."
                )

    def begin(self, masks: dict[str, str]) -> None:
        """Records the masks (-> photographs) that are about to be made; none of them may exist."""
        self.photographs |= masks
        self.made |= dict.fromkeys(masks, self.settings)
        self._write({})

    def end(self, failed: dict[str, str]) -> None:
        """Records the failures (photograph -> reason) and removes entries without a mask."""
        self.photographs = {mask: name for mask, name in self.photographs.items() if (self.out / mask).is_file()}
        self._write(failed)

    def _read(self, path: Path) -> None:
        content = read_json(path)
        self.made |= {mask: content["runs"][note["run"]] for mask, note in content["masks"].items()}
        if path == self.path:
            self.photographs = {mask: note["photograph"] for mask, note in content["masks"].items()}

    def _write(self, failed: dict[str, str]) -> None:
        runs: list[dict[str, Any]] = []
        for mask in self.photographs:
            if self.made[mask] not in runs:
                runs.append(self.made[mask])
        masks = {
            mask: {"photograph": name, "run": runs.index(self.made[mask])} for mask, name in self.photographs.items()
        }
        write_json(self.path, {"nnvit": __version__, "runs": runs, "masks": masks, "failed": failed})
