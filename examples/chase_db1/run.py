"""CHASE_DB1, children 11 to 14 held out, with the small pretrained ViT: three tables of real trainings.

    python examples/chase_db1/run.py TABLE --data DATA [--work WORK] [--seeds 0 1 2] [--arms ARM …] [--keep]

TABLE is one of
  pretraining  a frozen pretrained ViT-S against its random-init twins, three seeds each
  heads        every head, frozen and with LoRA, one seed
  detail       neck detail against simple_pyramid alone, three seeds, with a bootstrap interval over the photographs
DATA holds imagesTr/ and labelsTr/ of CHASE_DB1. Every run is an `nnvit train` command, printed before it starts; finished
ones are not repeated, so the script can be stopped and started at will. It ends with a table and writes TABLE.json beside
itself, which names the machine, and for each run the commit that it was trained on.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import bootstrap
from skimage.morphology import skeletonize

HERE = Path(__file__).parent
DATASET = "Dataset101_CHASE"
COMMIT = "commit.txt"
PYRAMID = ["model.neck=simple_pyramid", "model.neck_args.out_channels=128"]
QUERIES = ["model.num_queries=20", "model.encoder_layers=2", "model.decoder_layers=4", "model.feedforward_dim=512"]
NATIVE = "training.loss=native"  # at this learning rate Dice and cross-entropy leave most query heads at a constant map
HEADS = {
    "segformer": PYRAMID,
    "linear": [],
    "progressive": [],
    "upernet": [*PYRAMID, "model.decoder_hidden_size=128"],
    "dpt": ["model.neck=reassemble", "model.neck_args.out_channels=[48,96,192,384]", "model.fusion_hidden_size=128"],
    "mask2former": [*PYRAMID, "model.decoder_hidden_size=128", *QUERIES, NATIVE],
    "eomt": ["model.neck=same_scale", "model.num_queries=20", NATIVE],
}
TUNINGS = {"frozen": ["lora.enabled=false"], "lora": ["lora.enabled=true"]}
DETAIL = ["model.neck=detail", "model.neck_args.out_channels=128"]


def _every_head() -> dict[str, list[str]]:
    networks = {head: [f"model.head={head}", *keys] for head, keys in HEADS.items()}
    networks["segformer_detail"] = ["model.head=segformer", *DETAIL]
    return {f"{name}_{tuning}": [*keys, *tuned] for tuning, tuned in TUNINGS.items() for name, keys in networks.items()}


EVERY_HEAD = _every_head()
# table -> recipes beside this script or shipped, seeds, arms
TABLES: dict[str, tuple[list[str], list[int], dict[str, list[str]]]] = {
    "pretraining": (
        ["segformer_packaged", str(HERE / "recipe.yaml")],
        [0, 1, 2],
        {
            "pretrained": [],
            "random_frozen": ["model.weights=random"],
            "random_full": ["model.weights=random", "model.freeze_backbone=false"],
        },
    ),
    "heads": ([str(HERE / "heads.yaml")], [0], EVERY_HEAD),
    "detail": (
        [str(HERE / "heads.yaml")],
        [0, 1, 2],
        {arm: EVERY_HEAD[arm] for arm in ("segformer_frozen", "segformer_detail_frozen")},
    ),
}


def command(*words: str) -> None:
    """Shows a command and runs it."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)


def environment(work: Path) -> None:
    """nnU-Net's folders in `work`, and no more workers than cores."""
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str((work / name).resolve())
    os.environ.setdefault("nnUNet_n_proc_DA", "1")
    os.environ.setdefault("nnUNet_def_n_proc", str(os.cpu_count()))


def prepare(data: Path, work: Path) -> None:
    """nnU-Net's folders in `work`, the data set in them, planned and preprocessed."""
    environment(work)
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


def train(work: Path, arm: str, seed: int, recipes: list[str], keys: list[str]) -> None:
    """Trains one run, or resumes it."""
    folder = fold(work, arm, seed)
    if (folder / "validation" / "summary.json").is_file():
        return
    go_on = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
    sources = [word for recipe in recipes for word in ("--recipe", recipe)]
    command("nnvit", "train", "101", "2d", "0", *sources, *keys, f"name=chase_{arm}", f"training.seed={seed}", *go_on)
    (folder / COMMIT).write_text(commit())


def figures(work: Path, arm: str, seed: int) -> dict | None:
    """Dice and clDice per held-out photograph of a finished run, and what it cost."""
    folder = fold(work, arm, seed)
    if not (folder / "validation" / "summary.json").is_file():
        return None
    run = json.loads((folder / "nnvit_run.json").read_text())
    references = work / "raw" / DATASET / "labelsTr"
    scores = {
        path.stem: overlaps(np.asarray(Image.open(path)) > 0, np.asarray(Image.open(references / path.name)) > 0)
        for path in sorted((folder / "validation").glob("*.png"))
    }
    minutes = (datetime.fromisoformat(run["end"]) - datetime.fromisoformat(run["start"])).total_seconds() / 60
    return {
        "commit": (folder / COMMIT).read_text(),
        "loss": run["recipe"]["training"]["loss"],
        "dice": round(statistics.mean(dice for dice, _ in scores.values()), 4),
        "cldice": round(statistics.mean(cl for _, cl in scores.values()), 4),
        "dice_per_case": {case: round(dice, 5) for case, (dice, _) in scores.items()},
        "cldice_per_case": {case: round(cl, 5) for case, (_, cl) in scores.items()},
        "seconds_per_iteration": round(sum(run["seconds_per_iteration"].values()), 3),
        "training_minutes": None if run["resumed"] else round(minutes, 1),
        "parameters": run["parameters"]["total"],
        "trainable": run["parameters"]["trainable"],
        "precision": run["precision"]["name"],
    }


def overlaps(predicted: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Dice, and clDice (Shit et al. 2021, arXiv 2003.07311): the Dice of each skeleton's share inside the other mask."""
    dice = 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum())
    if not (predicted & reference).any():
        return float(dice), 0.0
    lines = skeletonize(predicted), skeletonize(reference)
    precision, sensitivity = lines[0][reference].sum() / lines[0].sum(), lines[1][predicted].sum() / lines[1].sum()
    return float(dice), float(2 * precision * sensitivity / max(precision + sensitivity, 1e-9))


def stock_agreement(work: Path, arm: str, seed: int) -> dict[str, int]:
    """Stock nnUNetv2_predict, with no nnUNet_extTrainer, against the final validation, on all held-out photographs."""
    folder = fold(work, arm, seed)
    expected = {path.name: np.asarray(Image.open(path)) for path in (folder / "validation").glob("*.png")}
    photos, out = work / "held_out", work / f"predicted_{arm}_s{seed}"
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


def gain(arms: dict[str, dict[str, dict]]) -> dict | None:
    """Second arm minus first: each photograph's difference, averaged over seeds; its mean and a BCa bootstrap interval."""
    before, after = arms.values()
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return None
    out: dict = {"seeds": [int(seed) for seed in seeds]}
    for metric in ("dice", "cldice"):
        per_case = [
            [after[s][f"{metric}_per_case"][case] - before[s][f"{metric}_per_case"][case] for s in seeds]
            for case in before[seeds[0]][f"{metric}_per_case"]
        ]
        means = np.mean(per_case, axis=1)
        interval = bootstrap((means,), np.mean, rng=0).confidence_interval
        out[metric] = {
            "mean": round(float(means.mean()), 4),
            "ci95": [round(float(interval.low), 4), round(float(interval.high), 4)],
            "per_seed": [round(float(d), 4) for d in np.mean(per_case, axis=0)],
        }
    return out


def results(work: Path, table: str, seeds: list[int], known: dict[str, dict]) -> dict:
    """Returns all finished runs of a table, each with its commit, and the machine; `known`: those of an earlier session."""
    arms: dict[str, dict] = {}
    for arm in TABLES[table][2]:
        here = {str(seed): figures(work, arm, seed) for seed in seeds}
        arms[arm] = known.get(arm, {}) | {seed: found for seed, found in here.items() if found}
    found = {"table": table, "machine": f"{os.cpu_count()} cores, {cpu()}, no GPU", "arms": arms}
    if table == "detail":
        found["gain"] = gain(found["arms"])
    return found


def commit() -> str:
    """The commit of the code that trains."""
    git = ["git", "-C", str(HERE)]
    status = [*git, "status", "--porcelain", "--", "../../src"]
    dirty = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    return head + ("-dirty" if dirty else "")


def cpu() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def markdown(found: dict) -> str:
    """The arms of a table, means over seeds."""
    columns = [
        "arm",
        "loss",
        "Dice",
        "SD over seeds",
        "clDice",
        "seeds",
        "s/it",
        "training min",
        "parameters",
        "trained",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for arm, runs in found["arms"].items():
        if runs:
            every = list(runs.values())
            dice = [run["dice"] for run in every]
            spread = f"{statistics.stdev(dice):.4f}" if len(dice) > 1 else "–"
            pace = statistics.median(run["seconds_per_iteration"] for run in every)
            minutes = [run["training_minutes"] for run in every if run["training_minutes"] is not None]
            cldice = statistics.mean(run["cldice"] for run in every)
            cells = [arm, every[0]["loss"], f"{statistics.mean(dice):.4f}", spread, f"{cldice:.4f}", str(len(dice))]
            cells += [f"{pace:.2f}", f"{statistics.median(minutes):.1f}" if minutes else "–"]
            lines.append(f"| {' | '.join(cells)} | {every[0]['parameters']:,} | {every[0]['trainable']:,} |")
    if found.get("gain"):
        lines += ["", f"gain of {list(found['arms'])[1]}: {json.dumps(found['gain'])}"]
    return "\n".join(lines)


def main() -> None:
    """Parses, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("work/chase_db1"))
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all of the table")
    parser.add_argument("--arms", nargs="+", help="default: all of the table")
    parser.add_argument(
        "--keep", action="store_true", help="take over the runs that TABLE.json holds, train the others"
    )
    parser.add_argument("--stock", action="store_true", help="also predict with stock nnUNetv2_predict and compare")
    arguments = parser.parse_args()
    recipes, all_seeds, arms = TABLES[arguments.table]
    if unknown := set(arguments.arms or []) - arms.keys():
        parser.error(f"no arm of {arguments.table} is called {', '.join(unknown)}; they are {', '.join(arms)}")
    prepare(arguments.data, arguments.work)
    out = HERE / f"{arguments.table}.json"
    known = json.loads(out.read_text())["arms"] if arguments.keep else {}
    for seed in arguments.seeds or all_seeds:
        for arm in arguments.arms or arms:
            if str(seed) not in known.get(arm, {}):
                train(arguments.work, arm, seed, recipes, arms[arm])
            found = results(arguments.work, arguments.table, all_seeds, known)
            out.write_text(json.dumps(found, indent=2) + "\n")
            print(markdown(found), flush=True)
    if arguments.stock:
        found["stock_predict"] = stock_agreement(arguments.work, next(iter(arms)), all_seeds[0])
        out.write_text(json.dumps(found, indent=2) + "\n")
        print(f"stock predict: {found['stock_predict']}")


if __name__ == "__main__":
    main()
