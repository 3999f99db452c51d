"""The description of an exported model: model_card.json for programs, README.txt for people."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnvit.nnunet.model_folder import FoldId, TrainedModel
from nnvit.records.json_files import write_json
from nnvit.records.model_name import ModelName
from nnvit.weights import licences


class ModelCard:
    """The card of a model. content: its entries, as plain data."""

    def __init__(self, model: TrainedModel, raw: Mapping[str, Any], *, merged: bool, half: bool) -> None:
        """Describes a model. raw: one of its checkpoints; merged, half: what the export did to its weights."""
        configuration = model.configuration.configuration
        block, architecture = configuration.get("nnvit", {}), configuration.get("architecture", {})
        weights = raw.get("nnvit", {}).get("weights") or {}
        base = weights.get("base", weights)
        kept = ("path", "sha256", "source", "licence", "licence_accepted")
        self.content = {
            "made_by": f"nnvit {version('nnvit')}",
            "network": architecture.get("network_class_name"),
            "needs": ["nnunetv2", "nnvit"] if block else ["nnunetv2"],
            "recipe": block.get("recipe"),
            "recipe_hash": block.get("hash"),
            "lora_merged": merged,
            "weights_in": "float16" if half else "float32",
            "configuration": raw["init_args"]["configuration"],
            "patch_size": list(configuration["patch_size"]),
            "channels": model.dataset_json.get("channel_names") or model.dataset_json.get("modality"),
            "normalization": configuration["normalization_schemes"],
            "labels": model.dataset_json["labels"],
            "mirroring_axes": model.mirroring_axes,
            "backbone_weights": {key: base[key] for key in kept if base.get(key)},
            "warnings": _warnings(base),
        }

    def metadata(self, **more: Any) -> dict[str, str]:
        """Returns the entries, and more of them, as the strings that safetensors and ONNX files hold."""
        entries = self.content | more
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}

    def write(self, target: Path, name: str, folds: Sequence[FoldId], checkpoint: str) -> None:
        """Writes both files into a model folder called `name`. The commands in README.txt leave out paths of this machine."""
        content = self.content | {"folds": list(folds), "checkpoint": checkpoint}
        write_json(target / "model_card.json", content)
        then = self.commands("ZIP", "DATASET", name, folds)
        (target / "README.txt").write_text("\n".join(_readme(content, then)) + "\n", encoding="utf-8")

    @staticmethod
    def commands(path: str, dataset: str, name: str, folds: Sequence[FoldId]) -> list[str]:
        """Returns the commands that install a zip of a data set's model called `name`, and predict with it."""
        path, model = shlex.quote(path), ModelName.parse(name)
        assert model is not None
        return [
            f"install it: nnvit install {path}, or nnUNetv2_install_pretrained_model_from_zip {path}",
            f"predict: {model.predict_command(dataset, folds)}",
        ]


def _warnings(base: Mapping[str, Any]) -> list[str]:
    """Returns a warning if the licence of the backbone's weights restricts the model or is unknown."""
    licence, file = str(base.get("licence", "")), base.get("path", "")
    if not licence or base.get("source") == "random":
        return []
    if licences.is_restricted(licence):
        text = licences.TEXTS.get(licences.licence_id(licence), "on its publisher's page")
        return [
            f"licence: the backbone's weights ({file}) are under '{licence}', which also binds what was made from them, this"
            f" model included; read it ({text}) before you pass the model on or use it for anything it may not allow."
        ]
    if licences.licence_id(licence) == licences.UNKNOWN:
        return [
            f"licence: the licence of the backbone's weights ({file}) is not known to nnvit; ask before you pass this on."
        ]
    return []


def _readme(card: Mapping[str, Any], then: Sequence[str]) -> list[str]:
    recipe = card["recipe"] or {}
    model = recipe.get("model", {})
    parts = [f"{key}: {model[key]}" for key in ("head", "neck", "backbone", "backbone_size") if key in model]
    labels = ", ".join(f"{name} = {value}" for name, value in card["labels"].items())
    channels = ", ".join(map(str, (card["channels"] or {}).values()))
    folds, weights = " ".join(map(str, card["folds"])), card["backbone_weights"]
    lines = [
        f"A model for nnU-Net, exported by {card['made_by']}.",
        "",
        f"Network      {', '.join(parts) or card['network']}",
        f"Recipe       {recipe.get('name', 'none')} ({str(card['recipe_hash'])[:8]})",
        f"Needs        pip install {' '.join(card['needs'])}",
        f"Channels     {channels}; normalised by {', '.join(card['normalization'])}",
        f"Labels       {labels}",
        f"Folds        {folds}, of {card['checkpoint']}; LoRA merged: {card['lora_merged']}; {card['weights_in']}",
    ]
    if weights:
        lines.append(
            f"Backbone     {weights.get('path')} ({weights.get('source')}), sha256 {weights.get('sha256')}, licence "
            f"{weights.get('licence')}"
        )
    return [*lines, "", *card["warnings"], *([""] if card["warnings"] else []), *then]
