"""What an exported model says of itself: model_card.json for programs, README.txt for people."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnvit.records.json_files import write_json
from nnvit.records.model_name import ModelName
from nnvit.weights import licences

if TYPE_CHECKING:
    from nnvit.nnunet.predict.model_folder import Fold, Model

CARD, README = "model_card.json", "README.txt"


def content(model: "Model", raw: Mapping[str, Any], *, merged: bool, half: bool) -> dict[str, Any]:
    """The card of a model; raw: one of its checkpoints; merged, half: what the export did to its weights."""
    configuration = model.configuration.configuration
    block, architecture = configuration.get("nnvit", {}), configuration.get("architecture", {})
    weights = raw.get("nnvit", {}).get("weights") or {}
    base = weights.get("base", weights)
    kept = ("path", "sha256", "source", "licence", "licence_accepted")
    return {
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


def metadata(card: Mapping[str, Any], plans: Mapping[str, Any] | None) -> dict[str, str]:
    """The card as safetensors and ONNX keep it, names to strings; with the plans, which rebuild the network."""
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in card.items()}
    return plain if plans is None else plain | {"format": "pt", "plans": json.dumps(plans)}


def write(target: Path, card: Mapping[str, Any], name: str) -> None:
    """Writes both files into a model folder called `name`, for whoever gets it, under a path of their own."""
    write_json(target / CARD, card)
    then = from_zip("ZIP", "DATASET", name, card["folds"])
    (target / README).write_text("\n".join(_text(card, then)) + "\n", encoding="utf-8")


def from_zip(path: str, dataset: str, name: str, folds: Sequence["Fold"]) -> list[str]:
    """The commands that install a zip of a data set's model called `name`, and predict with it."""
    path, model = shlex.quote(path), ModelName.parse(name)
    assert model is not None
    return [
        f"install it: nnvit install {path}, or nnUNetv2_install_pretrained_model_from_zip {path}",
        f"predict: {model.predict_command(dataset, folds)}",
    ]


def from_folder(out: Path, folds: Sequence["Fold"]) -> str:
    """The command that predicts with a model folder wherever it lies."""
    return (
        f"nnUNetv2_predict_from_modelfolder -i IMAGES -o OUT -m {shlex.quote(str(out))} -f {' '.join(map(str, folds))}"
    )


def _words(card: Mapping[str, Any]) -> str:
    return " ".join(map(str, card["folds"]))


def _warnings(base: Mapping[str, Any]) -> list[str]:
    """Whoever passes a model on passes its backbone on."""
    licence, file = str(base.get("licence", "")), base.get("path", "")
    if not licence or base.get("source") == "random":
        return []
    if licences.is_restricted(licence):
        text = licences.TEXTS.get(licences.licence_id(licence), "on its publisher's page")
        return [
            f"licence: the backbone's weights ({file}) are under '{licence}', which binds what was made of them too, this model"
            f" included; read it ({text}) before you use it for anything but what it allows, or pass it on."
        ]
    if licences.licence_id(licence) == licences.UNKNOWN:
        return [
            f"licence: nobody told nnvit the licence of the backbone's weights ({file}); ask before you pass this on."
        ]
    return []


def _text(card: Mapping[str, Any], then: Sequence[str]) -> list[str]:
    recipe = card["recipe"] or {}
    model = recipe.get("model", {})
    parts = [f"{key}: {model[key]}" for key in ("head", "neck", "backbone", "backbone_size") if key in model]
    labels = ", ".join(f"{name} = {value}" for name, value in card["labels"].items())
    weights = card["backbone_weights"]
    channels = ", ".join(map(str, (card["channels"] or {}).values()))
    lines = [
        f"A model for nnU-Net, exported by {card['made_by']}.",
        "",
        f"Network      {', '.join(parts) or card['network']}",
        f"Recipe       {recipe.get('name', 'none')} ({str(card['recipe_hash'])[:8]})",
        f"Needs        pip install {' '.join(card['needs'])}",
        f"Channels     {channels}; normalised by {', '.join(card['normalization'])}",
        f"Labels       {labels}",
        f"Folds        {_words(card)}, of {card['checkpoint']}; LoRA merged: {card['lora_merged']}; {card['weights_in']}",
    ]
    if weights:
        lines.append(
            f"Backbone     {weights.get('path')} ({weights.get('source')}), sha256 {weights.get('sha256')}, licence "
            f"{weights.get('licence')}"
        )
    return [*lines, "", *card["warnings"], *([""] if card["warnings"] else []), *then]
