"""`nnvit evaluate`: scores of a cross-validation, or of a folder of predictions, by nnU-Net's own metrics."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nnvit.errors import ConfigError

from . import options as o

app = o.new_app()


@app.command(
    "evaluate",
    cls=o.ManyFolds,
    epilog="Examples: nnvit evaluate results/Dataset101_CHASE/nnUNetTrainer_nnvit__nnUNetPlans_unet__2d | "
    "nnvit evaluate -d 101 -c 2d -tr nnUNetTrainer_nnvit -p nnUNetPlans_unet --folds 0 1 | nnvit evaluate out labelsTs",
)
def _evaluate(
    folder: Annotated[
        Path | None,
        Argument(
            metavar="FOLDER",
            help="Folder of a trained model, …/Trainer__Plans__2d; or, with REFERENCES, a folder of predicted masks.",
        ),
    ] = None,
    references: Annotated[
        Path | None, Argument(metavar="REFERENCES", help="Folder of the masks to compare with, of the same names.")
    ] = None,
    d: o.ModelDatasetOption = None,
    p: o.ModelPlansOption = "nnUNetPlans",
    tr: o.ModelTrainerOption = "nnUNetTrainer",
    c: o.ModelConfigurationOption = None,
    folds: Annotated[
        list[str] | None,
        Option(
            "--folds",
            metavar="FOLD...",
            help="For a model: these folds only, such as --folds 0 1; by default all of splits_final.json.",
        ),
    ] = None,
) -> None:
    """Evaluate a cross-validation as a whole, or a folder of predictions, by nnU-Net's own metrics.

    For a model, the validation masks of all folds are gathered in crossval_results_folds_… within it and scored together, as
    nnUNetv2_accumulate_crossval_results does; missing and left-over masks are refused by name.
    """
    from rich.console import Console

    from nnvit.nnunet import crossval

    if references is not None and folder is not None:
        if folds:
            raise ConfigError("--folds is for a model folder, not for a folder of predictions.")
        result = crossval.evaluate_folder(folder, references)
    else:
        model, wanted = o.model_folder(folder, d, c, tr, p), [o.parse_fold(fold) for fold in folds or ["all"]]
        numbers = [fold for fold in wanted if isinstance(fold, int)]
        if len(numbers) < len(wanted) and wanted != ["all"]:
            raise ConfigError(
                f"--folds {' '.join(folds or [])}: give numbers, or 'all' alone for all of splits_final.json."
            )
        result = crossval.evaluate_model(model, numbers or None)
    Console().print(result.table())
    print("\n".join(result.lines()))
