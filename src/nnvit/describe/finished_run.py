"""`nnvit show FOLDER`: the record of a training, from the nnvit_run.json of its folds."""

from pathlib import Path
from typing import Any

from nnvit.errors import ConfigError
from nnvit.estimate import GIB
from nnvit.records.json_files import read_json

from .columns import short, table

_FILE = "nnvit_run.json"
_UNKNOWN = "not recorded"


def account(folder: Path) -> list[str]:
    """Returns the record of a fold, or of each fold of a model folder, as lines.

    Raises ConfigError if the folder holds no record, or one that cannot be read.
    """
    found = [folder / _FILE] if (folder / _FILE).is_file() else sorted(folder.glob(f"fold_*/{_FILE}"))
    if not found:
        raise ConfigError(
            f"{folder} holds no {_FILE}, nor does a fold in it; give a fold's folder, or the model folder "
            "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION of a training of nnvit."
        )
    lines = []
    for path in found:
        try:
            rows = _rows(read_json(path, ConfigError))
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is not a complete record of a training ({type(error).__name__}: {error})."
            ) from error
        lines += ["", f"# {path.parent.parent.name} {path.parent.name}", *table(rows.items())]
    return lines[1:]


def _rows(run: dict[str, Any]) -> dict[str, str]:
    recipe, precision, parameters = run["recipe"], run["precision"], run["parameters"]
    flops = f"{short(run['flops_per_patch'])}FLOPs to predict a patch" if "flops_per_patch" in run else _UNKNOWN
    return {
        "recipe": f"{recipe['name']} ({run['recipe_hash'][:8]}), plans {run['plans']}, seed {run['seed']}",
        "ended": _end(run),
        "epochs": f"{run['epochs_done']} of {recipe['training']['num_epochs']}",
        "data": f"{run['cases']['train']} training and {run['cases']['val']} validation cases",
        "step": f"{run['batch_size']} patches of {' x '.join(map(str, run['patch_size']))}",
        "device": f"{run['device']}, {run['threads']} threads, {precision['name']} ({precision['reason']})",
        "weights": _weights(run["weights"]),
        "parameters": f"{parameters['trainable']:,} of {parameters['total']:,} are trained",
        "FLOPs": flops,
        "an iteration": _seconds(run.get("seconds_per_iteration")),
        "peak memory": _memory(run),
        "versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }


def _end(run: dict[str, Any]) -> str:
    if "end" not in run:
        return f"{run['exit']} since {run['start']}"
    validated = f"; {run['validation']['checkpoint']} is validated" if "validation" in run else ""
    return f"{run['exit']} at {run['end']}, begun at {run['start']}{validated}"


def _weights(weights: dict[str, Any]) -> str:
    if not weights:
        return _UNKNOWN
    more = [weights["path"]] if weights.get("path") else []
    more += [f"licence {weights['licence']}"] if weights.get("licence") else []
    more += [f"{weights['loaded']} tensors loaded"] if weights.get("loaded") else []
    return ", ".join([str(weights.get("source", _UNKNOWN)), *more])


def _seconds(parts: dict[str, float] | None) -> str:
    """Formats the medians of an iteration's parts; 0.1.0 recorded all but the wait as one."""
    if not parts:
        return _UNKNOWN
    names = {"data_wait": "waiting for data"} | ({} if "forward" in parts else {"step": "forward, backward and step"})
    split = " + ".join(f"{value:.3f} {names.get(part, part)}" for part, value in parts.items())
    return f"{sum(parts.values()):.3f} s = {split} (medians of the last epoch)"


def _memory(run: dict[str, Any]) -> str:
    if "peak_memory_bytes" not in run:
        return _UNKNOWN
    whose = "allocated on the GPU" if run["device_type"] == "cuda" else "resident, the whole process"
    return f"{run['peak_memory_bytes'] / GIB:.2f} GiB {whose}"
