"""`nnvit convert`: checkpoints of other makers into nnvit's."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .options import OverridesArgument, new_app

app = new_app()


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
    overrides: OverridesArgument = None,
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
    from nnvit.nnunet.share.convert import convert

    print("\n".join(convert(source, out, recipe or [], overrides or [], backbone_only).lines()))
