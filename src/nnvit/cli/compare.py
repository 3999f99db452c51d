"""`nnvit compare`: arms against each other, in one report."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .options import new_app

_EXAMPLES = """Examples: nnvit compare unet segformer vit -d 101 --baseline unet --tubular vessel
· nnvit compare results/Dataset101_CHASE/nnUNetTrainer__nnUNetPlans__2d vit=results/Dataset101_CHASE/myTrainer__nnUNetPlans__2d
· nnvit compare a=masks_of_a b=masks_of_b --reference labelsTs --images imagesTs --out comparison"""

app = new_app()


@app.command("compare", epilog=_EXAMPLES)
def _compare(
    arms: Annotated[
        list[str],
        Argument(
            metavar="ARM...",
            help="Results folder of any nnU-Net 2 trainer, folder of masks, or (with --dataset) Trainer__Plans or a recipe's "
            "name; NAME=… names it. Runs with the same NAME, and recipes that differ only in their seed, form one arm.",
        ),
    ],
    dataset: Annotated[
        list[str] | None,
        Option(
            "-d", "--dataset", help="Data set under nnUNet_results in which to look for names; repeat it for several."
        ),
    ] = None,
    configuration: Annotated[str, Option("-c", "--configuration", help="Configuration of arms given by name.")] = "2d",
    folds: Annotated[
        str | None, Option("-f", "--folds", help="Folds to compare, such as 0,1,2; by default all that an arm has.")
    ] = None,
    baseline: Annotated[str | None, Option(help="The arm that the others are compared with.")] = None,
    human: Annotated[Path | None, Option(help="Masks of a second observer, shown as the human line.")] = None,
    reference: Annotated[
        Path | None, Option(help="Reference masks, if nnU-Net's own folders are not available.")
    ] = None,
    images: Annotated[Path | None, Option(help="Images on which the report draws the masks.")] = None,
    tubular: Annotated[
        list[str] | None,
        Option(metavar="LABEL", help="Label that is thin and branches: it gets clDice. Repeat it for several."),
    ] = None,
    nsd_tolerance: Annotated[
        float | None,
        Option(metavar="MM", help="Tolerance of the normalised surface Dice; by default the longest edge of a voxel."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        Option(metavar="KEY", help="Audit key whose difference you declare; the report prints it. Repeatable."),
    ] = None,
    metric: Annotated[str, Option(help="The metric that the headline is about.")] = "dice",
    processes: Annotated[
        int | None, Option(help="Processes that score masks; by default one for each core.", min=1)
    ] = None,
    out: Annotated[Path, Option(help="Folder for report.html, cases.csv, stats.json, figures and tables.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare arms fairly: audit, metrics, statistics and one report."""
    from nnvit.compare.comparison import compare

    result = compare(
        arms,
        dataset=dataset,
        configuration=configuration,
        folds=folds.replace(",", " ").split() if folds else None,
        baseline=baseline,
        human=human,
        reference=reference,
        images=images,
        tubular=tubular or (),
        nsd_tolerance=nsd_tolerance,
        allow=allow or (),
        metric=metric,
        processes=processes,
        out=out,
    )
    print(f"\n{result.headline}\nreport: {result.report}")
