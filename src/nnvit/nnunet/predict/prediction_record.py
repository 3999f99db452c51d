"""`nnvit_predict.json`, beside the masks of photographs: what made each of them. Only what it names is ever overwritten."""

from pathlib import Path
from typing import Any

from nnvit import __version__
from nnvit.errors import ConfigError, DataError
from nnvit.records.json_files import read_json, write_json

NAME = "nnvit_predict.json"


class Account:
    """The account of one output folder, with those of its other parts (`-num_parts`).

    settings: of this run; parts: (number of parts, which one this is).
    """

    def __init__(self, out: Path, settings: dict[str, Any], parts: tuple[int, int]) -> None:
        self.out, self.settings = out, settings
        number, part = parts
        self.path = out / (NAME if number == 1 else NAME.replace(".json", f"_part{part}of{number}.json"))
        self.made: dict[str, dict[str, Any]] = {}
        """Mask -> the settings that it was made with."""
        self.photographs: dict[str, str] = {}
        """Mask -> photograph."""
        others = out.glob(NAME.replace(".json", "*.json"))
        for path in sorted(others, key=lambda path: path.stat().st_mtime_ns):  # what was written last is what is there
            self._read(path)

    def refuse_foreign(self, masks: list[str]) -> None:
        """Raises DataError for files that are there and that nnvit predict did not write."""
        foreign = [mask for mask in masks if mask not in self.made]
        if foreign:
            raise DataError(
                f"{self.out} holds {len(foreign)} files under names that the masks would get and that nnvit predict did not "
                f"write, e.g. {foreign[0]}; give another -o, or move them away."
            )

    def refuse_made_otherwise(self, masks: list[str]) -> None:
        """Raises ConfigError for masks, to be kept, of another model or other settings."""
        for mask in masks:
            made = self.made[mask]
            differ = [f"{key} {made.get(key)}, now {now}" for key, now in self.settings.items() if made.get(key) != now]
            if differ:
                raise ConfigError(
                    f"--continue_prediction: {self.out / mask} was predicted with {'; '.join(differ)}; going on would mix the "
                    "two. Give what it was predicted with, or another -o."
                )

    def begin(self, masks: dict[str, str]) -> None:
        """Notes the masks (-> photographs) that are about to be made; none of them may be there."""
        self.photographs |= masks
        self.made |= dict.fromkeys(masks, self.settings)
        self._write({})

    def end(self, failed: dict[str, str]) -> None:
        """failed: photograph -> reason; what has no mask is struck out."""
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
