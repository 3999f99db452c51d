"""`nnvit convert`, `nnvit export` and `nnvit install`: models of other programs, and models for other machines."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from . import options as o

app = o.new_app()


@app.command(
    "convert",
    epilog="Examples: nnvit convert nnUNet_results/Dataset101_X/nnUNetTrainer_segformer__nnUNetPlans__2d -r my.yaml | "
    "nnvit convert segformer-b2 --recipe mit_b2_segformer -o start.pth | "
    "nnvit convert vit/fold_0/checkpoint_final.pth -r my.yaml --backbone-only -o backbone.safetensors",
)
def _convert(
    source: Annotated[
        Path,
        Argument(
            metavar="SOURCE",
            help="A results folder (with plans.json and fold_*), a checkpoint or state dict, or a model directory of "
            "transformers.",
        ),
    ],
    overrides: o.OverridesArgument = None,
    recipe: Annotated[
        list[str] | None,
        Option(
            "--recipe",
            "-r",
            "--segformer_config",
            help="The YAML that it was trained with, or a shipped recipe; on top of segformer_fork for the fork's own.",
        ),
    ] = None,
    out: Annotated[
        Path | None, Option("--out", "-o", help="What to write; by default, for a results folder, a folder beside it.")
    ] = None,
    backbone_only: Annotated[
        bool, Option("--backbone-only", help="Write the backbone alone, for model.weights=PATH; adapters merged.")
    ] = False,
) -> None:
    """Turn the original fork's checkpoints, or transformers' SegFormer, into what nnvit and stock nnU-Net load.

    A results folder becomes one that nnUNetv2_predict reads; a file becomes one for -pretrained_weights. Nothing is ever
    overwritten, and a source that does not fit completely is refused with a list of what is missing.
    """
    from nnvit.nnunet.share.foreign_checkpoints import convert

    print("\n".join(convert(source, out, recipe or [], overrides or [], backbone_only).lines()))


@app.command(
    "export",
    cls=o.ManyFolds,
    epilog="Examples: nnvit export nnUNet_results/Dataset101_X/nnUNetTrainer_segformer__nnUNetPlans_mine__2d -o mine.zip | "
    "nnvit export MODEL_FOLDER -o small -f 0 --half --safetensors | nnvit export MODEL_FOLDER -o app -f 0 --onnx",
)
def _export(
    model: Annotated[Path, Argument(metavar="MODEL_FOLDER", help="A trained model, …/Trainer__Plans__2d.")],
    out: Annotated[
        Path, Option("--out", "-o", help="OUT.zip for `nnvit install` and nnU-Net, or the model folder to write.")
    ],
    folds: Annotated[
        list[str] | None,
        Option(
            "-f",
            "--folds",
            metavar="FOLD...",
            help="Folds to export, such as -f 0 1 2; by default all that are trained.",
        ),
    ] = None,
    chk: Annotated[
        str, Option("-chk", help="Which checkpoint; the export calls it checkpoint_final.pth.")
    ] = "checkpoint_final.pth",
    merge: Annotated[
        bool, Option("--merge/--no-merge", help="Merge LoRA into the weights, in fp32, or keep the adapters.")
    ] = True,
    half: Annotated[bool, Option("--half", help="Weights in fp16: half the size, logits nearly the same.")] = False,
    safetensors: Annotated[
        bool, Option("--safetensors", help="Also fold_k/model.safetensors, with plans, labels and recipe in it.")
    ] = False,
    onnx: Annotated[
        bool, Option("--onnx", help="Also fold_k/model.onnx for one patch, checked with onnxruntime against torch.")
    ] = False,
) -> None:
    """Write a trained model as one that stock nnU-Net predicts with anywhere: LoRA merged, frozen weights inside.

    Optimiser states stay behind. What was written is loaded again and compared with the model; README.txt and
    model_card.json in it say what it is, under which licence its backbone is, and how to predict.
    """
    from nnvit.nnunet.share.model_export import ExportOptions, export

    options = ExportOptions(merge=merge, half=half, safetensors=safetensors, onnx=onnx)
    print("\n".join(export(model, out, list(map(o.parse_fold, folds)) if folds else None, chk, options).lines()))


@app.command("install", epilog="Examples: nnvit install mine.zip | nnvit install theirs.zip --name Dataset900_Theirs")
def _install(
    source: Annotated[Path, Argument(metavar="ZIP", help="Made by `nnvit export` or nnUNetv2_export_model_to_zip.")],
    name: Annotated[
        str | None, Option("--name", "-d", help="Call its data set this instead, such as Dataset900_Theirs.")
    ] = None,
) -> None:
    """Put a model from a zip into nnUNet_results, after checking that nothing in it can do harm.

    Paths that leave the folder, links, and checkpoints that would run code are refused; a model that is there already is
    never overwritten; all of it arrives, or nothing.
    """
    from nnvit.nnunet.share.model_zip import install

    print("\n".join(install(source, name).lines()))
