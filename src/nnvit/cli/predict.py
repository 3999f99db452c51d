"""`nnvit predict`: masks of photographs, or of a folder of nnU-Net's naming."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from . import options as o

app = o.new_app()

_InputKind = StrEnum("_InputKind", "PHOTOGRAPHS NNUNET")
_MaskValues = StrEnum("_MaskValues", "STORED LABELS VISIBLE")


@app.command(
    "predict",
    cls=o.ManyFolds,
    epilog="Examples: nnvit predict -i photos -o masks -m results/Dataset101_CHASE/nnUNetTrainer_nnvit__nnUNetPlans_unet__2d "
    "--overlay | nnvit predict -i imagesTs -o out -d 101 -c 2d -tr nnUNetTrainer_nnvit -p nnUNetPlans_unet -f 0 1 2",
)
def _predict(
    i: Annotated[
        Path,
        Option(
            "-i",
            help="Photographs as they are: a folder, or one file (jpg, png, tif, …); or a folder of nnU-Net's naming, "
            "case_0000.png.",
        ),
    ],
    out: Annotated[Path, Option("-o", help="Folder for the masks; created if missing.")],
    m: Annotated[
        Path | None,
        Option(
            "-m",
            help="Folder of a trained model, …/Trainer__Plans__2d, of nnvit or of stock nnU-Net; or name it by -d, -c, -tr, -p.",
        ),
    ] = None,
    overlay: Annotated[
        bool, Option("--overlay", help="Also OUT/overlays: each photograph with its mask drawn on it.")
    ] = False,
    probabilities: Annotated[
        bool, Option("--probabilities", help="Also OUT/probabilities/LABEL: 16-bit grey png, 65535 is 1.")
    ] = False,
    values: Annotated[
        _MaskValues | None,
        Option(
            help="Label values in the masks: as stored in the mask files of the import (the default, where the model knows "
            "them), nnU-Net's labels 0..n, or visible ones, spread over 0..255."
        ),
    ] = None,
    recursive: Annotated[
        bool, Option("--recursive", help="Also photographs in subfolders; the masks get the same subfolders.")
    ] = False,
    as_: Annotated[
        _InputKind | None,
        Option(
            "--as",
            help="Kind of files in -i; by default nnU-Net's naming if every picture in it is called case_XXXX, counted from "
            "0000.",
        ),
    ] = None,
    d: o.ModelDatasetOption = None,
    p: o.ModelPlansOption = "nnUNetPlans",
    tr: o.ModelTrainerOption = "nnUNetTrainer",
    c: o.ModelConfigurationOption = None,
    f: Annotated[
        list[str] | None,
        Option(
            "-f",
            metavar="FOLD...",
            help="Folds whose outputs are averaged, such as -f 0 1 2; by default all that are trained.",
        ),
    ] = None,
    chk: Annotated[str, Option("-chk", help="Name of the checkpoint.")] = "checkpoint_final.pth",
    step_size: Annotated[
        float,
        Option(
            "-step_size", help="Step of the sliding window, in patches, at most 1; larger is faster and less accurate."
        ),
    ] = 0.5,
    disable_tta: Annotated[bool, Option("--disable_tta", help="No mirroring: faster, less accurate.")] = False,
    continue_prediction: Annotated[
        bool,
        Option(
            "--continue_prediction",
            "--c",
            help="Keep existing predictions; otherwise they are made again and overwritten.",
        ),
    ] = False,
    save_probabilities: Annotated[
        bool, Option("--save_probabilities", help="nnU-Net's naming only: its npz of probabilities, for ensembles.")
    ] = False,
    prev_stage_predictions: Annotated[
        Path | None,
        Option("-prev_stage_predictions", help="nnU-Net's naming only: predictions of a cascade's first stage."),
    ] = None,
    npp: Annotated[
        int,
        Option(
            "-npp",
            envvar="nnUNet_npp",
            show_envvar=False,
            min=0,
            help="nnU-Net's naming only: processes for preprocessing; -npp 0 -nps 0 uses one process for everything.",
        ),
    ] = 3,
    nps: Annotated[
        int,
        Option(
            "-nps", envvar="nnUNet_nps", show_envvar=False, min=0, help="nnU-Net's naming only: processes for export."
        ),
    ] = 3,
    num_parts: Annotated[int, Option("-num_parts", min=1, help="Number of commands that share the images.")] = 1,
    part_id: Annotated[int, Option("-part_id", min=0, help="Number of this command, from 0.")] = 0,
    device: o.DeviceOption = None,
    verbose: Annotated[bool, Option("--verbose", help="nnU-Net's messages, and the traceback of a failure.")] = False,
    disable_progress_bar: Annotated[
        bool, Option("--disable_progress_bar", help="No bar; a line for each image stays.")
    ] = False,
    not_on_device: Annotated[
        bool, Option("--not_on_device", help="Collect the outputs in main memory, for large images.")
    ] = False,
    exact: Annotated[
        bool,
        Option(
            "--exact",
            help="Stock nnU-Net's predictor: masks identical to nnUNetv2_predict's. By default tiles run in batches and, where "
            "the device has it, in bf16, which may move single pixels at a border.",
        ),
    ] = False,
    tile_batch: Annotated[
        int | None,
        Option(
            "--tile-batch",
            min=1,
            help="Mirrored tiles in one pass of the network; by default as many as the device takes.",
        ),
    ] = None,
) -> None:
    """Predict photographs, of any name and geometry, or a folder of nnU-Net's naming, as nnUNetv2_predict does.

    Photographs need no renaming: the mask of `My photo.JPG` is `My photo.png`, of the same size, turned as a viewer shows the
    photograph. A file that cannot be predicted is listed at the end, the others are predicted, and the exit code is 1.
    """
    from nnvit.nnunet.predict import MaskValues, PredictionOptions, predict

    try:
        outcome = predict(
            i,
            out,
            o.model_folder(m, d, c, tr, p),
            o.torch_device(device),
            PredictionOptions(
                values=MaskValues(values) if values else None,
                probabilities=probabilities,
                recursive=recursive,
                save_probabilities=save_probabilities,
                npp=npp,
                nps=nps,
                prev_stage_predictions=prev_stage_predictions,
                overlay=overlay,
                continue_prediction=continue_prediction,
                num_parts=num_parts,
                part_id=part_id,
                step_size=step_size,
                mirroring=not disable_tta,
                on_device=not not_on_device,
                exact=exact,
                tile_batch=tile_batch,
                verbose=verbose,
                bar=not disable_progress_bar,
            ),
            folds=[o.parse_fold(name) for name in f] if f else None,
            checkpoint=chk,
            kind=as_,
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with --continue_prediction goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    print("\n".join(outcome.lines()))
    for name, reason in outcome.failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if outcome.failed:
        raise typer.Exit(1)
