"""CHASE_DB1, children 11 to 14 held out: a frozen pretrained ViT-S against its random-init twins, three seeds each.

    python examples/chase_db1/run.py --data DATA [--work WORK] [--seeds 0 1 2] [--arms pretrained random_frozen …]

DATA holds imagesTr/ and labelsTr/ of CHASE_DB1. Every run is an `nnvit train` command, printed before it starts; finished
ones are not repeated, so the script can be stopped and started at will. It ends with a table and writes results.json beside
itself, which names the commit and the machine that the figures come from.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
ARMS = {
    "pretrained": [],
    "random_frozen": ["model.weights=random"],
    "random_full": ["model.weights=random", "model.freeze_backbone=false"],
}
DATASET = "Dataset101_CHASE"


def command(*words: str) -> None:
    """Shows a command and runs it."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)


def prepare(data: Path, work: Path) -> None:
    """nnU-Net's folders in `work`, the data set in them, planned and preprocessed."""
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str((work / name).resolve())
    os.environ.setdefault("nnUNet_n_proc_DA", "1")
    os.environ.setdefault("nnUNet_def_n_proc", str(os.cpu_count()))
    if not (work / "raw" / DATASET).is_dir():
        folders = [str(data / "imagesTr"), str(data / "labelsTr")]
        splitting = ["--group-by", r"Image_(\d+)", "--validate-on", "1[1-4]"]
        labels = ["--mask-suffix", "_1stHO", "--label", "vessel=1"]
        command("nnvit", "dataset", "import", *folders, "-d", "101", "-n", "CHASE", *labels, *splitting)
    if not (work / "preprocessed" / DATASET / "nnUNetPlans_2d").is_dir():
        command("nnUNetv2_plan_and_preprocess", "-d", "101", "-c", "2d", "-npfp", "2", "-np", "2")


def fold(work: Path, arm: str, seed: int) -> Path:
    """The results folder of one run."""
    model = f"nnUNetTrainer_nnvit__nnUNetPlans_chase_{arm}_s{seed}__2d"
    return work / "results" / DATASET / model / "fold_0"


def train(work: Path, arm: str, seed: int) -> None:
    """One run, from wherever it stands."""
    folder = fold(work, arm, seed)
    if (folder / "validation" / "summary.json").is_file():
        return
    go_on = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
    recipe = ["--recipe", "segformer_packaged", "--recipe", str(HERE / "recipe.yaml")]
    keys = [*ARMS[arm], f"name=chase_{arm}", f"training.seed={seed}"]
    command("nnvit", "train", "101", "2d", "0", *recipe, *keys, *go_on)


def figures(folder: Path) -> dict[str, float] | None:
    """Mean Dice of a finished run, and what it cost."""
    if not (folder / "validation" / "summary.json").is_file():
        return None
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    run = json.loads((folder / "nnvit_run.json").read_text())
    seconds = sum(run["seconds_per_iteration"].values())
    return {
        "dice": round(summary["foreground_mean"]["Dice"], 4),
        "seconds_per_iteration": round(seconds, 3),
        "trainable": run["parameters"]["trainable"],
        "precision": run["precision"]["name"],
    }


def stock_agreement(work: Path, seed: int) -> dict[str, int]:
    """Stock nnUNetv2_predict, with no nnUNet_extTrainer, against the final validation, on all held-out photographs."""
    folder = fold(work, "pretrained", seed)
    expected = {path.name: np.asarray(Image.open(path)) for path in (folder / "validation").glob("*.png")}
    photos, out = work / "held_out", work / "predicted"
    photos.mkdir(exist_ok=True)
    for name in expected:
        source = work / "raw" / DATASET / "imagesTr" / name.replace(".png", "_0000.png")
        (photos / source.name).write_bytes(source.read_bytes())
    if len(list(out.glob("*.png"))) < len(expected):
        _, plans, _ = folder.parent.name.split("__")
        model = ["-d", "101", "-c", "2d", "-tr", "nnUNetTrainer_nnvit", "-p", plans, "-f", "0"]
        command("nnUNetv2_predict", "-i", str(photos), "-o", str(out), *model, "-device", "cpu")
    same = sum(np.array_equal(mask, np.asarray(Image.open(out / name))) for name, mask in expected.items())
    return {"photographs": len(expected), "identical_masks": int(same)}


def results(work: Path, seeds: list[int]) -> dict:
    """All finished runs, with the commit and the machine."""
    arms = {arm: {seed: figures(fold(work, arm, seed)) for seed in seeds} for arm in ARMS}
    git = ["git", "-C", str(HERE)]
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "--", "../../src"], capture_output=True, text=True, check=True
    )
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "commit": commit + ("-dirty" if dirty.stdout.strip() else ""),
        "machine": f"{os.cpu_count()} cores, {cpu()}, no GPU",
        "arms": {arm: {str(seed): f for seed, f in runs.items() if f} for arm, runs in arms.items()},
    }


def cpu() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


def table(found: dict) -> str:
    """The arms' mean Dice over seeds, as Markdown."""
    lines = ["| arm | mean Dice | SD over seeds | seeds | s/it | trained parameters |", "|---|---|---|---|---|---|"]
    for arm, runs in found["arms"].items():
        if runs:
            dice = [run["dice"] for run in runs.values()]
            spread = f"{statistics.stdev(dice):.4f}" if len(dice) > 1 else "–"
            pace = statistics.median(run["seconds_per_iteration"] for run in runs.values())
            trained = next(iter(runs.values()))["trainable"]
            each = ", ".join(f"{d:.3f}" for d in dice)
            lines.append(
                f"| {arm} | {statistics.mean(dice):.4f} ({each}) | {spread} | {len(dice)} | {pace:.2f} | {trained:,} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Parses, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("work/chase_db1"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--no-stock", action="store_true", help="leave out the check against stock nnUNetv2_predict")
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.work)
    for arm in arguments.arms:
        for seed in arguments.seeds:
            train(arguments.work, arm, seed)
            found = results(arguments.work, arguments.seeds)
            (HERE / "results.json").write_text(json.dumps(found, indent=2) + "\n")
            print(table(found), flush=True)
    if not arguments.no_stock:
        found["stock_predict"] = stock_agreement(arguments.work, arguments.seeds[0])
        (HERE / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
