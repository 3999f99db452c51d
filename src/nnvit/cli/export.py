"""`nnvit export`: a trained model as one that runs anywhere, folder or zip."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .options import ManyFolds, new_app, parse_fold

app = new_app()


@app.command(
    "export",
    cls=ManyFolds,
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
    from nnvit.nnunet.share.export import ExportOptions, export

    options = ExportOptions(merge=merge, half=half, safetensors=safetensors, onnx=onnx)
    numbers = [parse_fold(fold) for fold in folds] if folds else None
    print("\n".join(export(model, out, numbers, chk, options).lines()))
