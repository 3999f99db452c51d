"""`nnvit dataset`: photographs and masks into nnU-Net's raw format."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .options import new_app

app = new_app(no_args_is_help=True, help="Photographs and masks into nnU-Net's raw format.")


@app.command(
    "import",
    epilog="Example: nnvit dataset import photos masks -d 101 -n CHASE --mask-suffix _1stHO --label vessel=1 "
    "--group-by 'Image_(\\d+)'",
)
def dataset_import(
    images: Annotated[Path, typer.Argument(help="Folder of jpg, png or tif images.")],
    masks: Annotated[Path, typer.Argument(help="Folder of png, gif or tif masks, of 0/255 or 0..n.")],
    d: Annotated[int, typer.Option("-d", "--dataset-id", help="Dataset number, 1 to 999.", min=1, max=999)],
    name: Annotated[str, typer.Option("-n", "--name", help="Dataset name.")],
    mask_suffix: Annotated[str, typer.Option(help="What a mask's name has after its image's.")] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(help="name=value for each value as the mask files store it; 0 is background.", show_default=False),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="What of a name tells the patient; patients never straddle folds."),
    ] = None,
    num_folds: Annotated[int, typer.Option(help="Folds of the cross-validation, with --group-by.", min=2)] = 5,
    validate_on: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="One fold only, which validates on the groups that it matches whole."),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Groups (without --group-by: names) that become the test set, imagesTs. It must match them whole.",
        ),
    ] = None,
    normalization: Annotated[
        str, typer.Option(help="rgb01: values in 0..1, the backbone's statistics apply; zscore: per image.")
    ] = "rgb01",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data set of that number.")] = False,
) -> None:
    """Turn a folder of images and a folder of masks into nnUNet_raw/DatasetXXX_Name."""
    from ..data.importer import import_dataset

    report = import_dataset(
        images,
        masks,
        d,
        name,
        raw=_nnunet_folder("nnUNet_raw"),
        preprocessed=_nnunet_folder("nnUNet_preprocessed"),
        mask_suffix=mask_suffix,
        labels=_labels(label),
        group_by=group_by,
        num_folds=num_folds,
        validate_on=validate_on,
        hold_out=hold_out,
        normalization=normalization,
        overwrite=overwrite,
    )
    print("\n".join(report.lines()))


@app.command(epilog="Example: nnvit dataset synthesize photographs --num 24 --size 384 --seed 0")
def synthesize(
    out: Annotated[Path, typer.Argument(help="Folder to make; it gets images/ and masks/.")],
    num: Annotated[int, typer.Option(help="Number of photographs, two per patient.", min=1)] = 24,
    size: Annotated[int, typer.Option(help="Height and width in pixels.", min=64)] = 384,
    seed: Annotated[int, typer.Option(help="The same seed gives the same photographs.")] = 0,
) -> None:
    """Make synthetic fundus photographs with vessel masks, for demos and dry runs."""
    from ..data.synthetic import generate

    generate(out, num=num, size=size, seed=seed)
    print(f"{num} photographs in {out}/images, their vessels in {out}/masks")


def _labels(pairs: list[str] | None) -> dict[str, int] | None:
    if not pairs:
        return None
    labels = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value.isdigit():
            raise ConfigError(f"--label {pair} must be name=value with a whole number, such as vessel=255.")
        if name in labels or name == "background":
            raise ConfigError(f"--label {pair}: each name is given once, and value 0 is the background by itself.")
        labels[name] = int(value)
    return labels


def _nnunet_folder(variable: str) -> Path:
    from ..nnunet.folders import folder

    return folder(variable)
