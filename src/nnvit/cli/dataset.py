"""`nnvit dataset`: data sets in nnU-Net's raw format, from photographs and masks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from nnvit.errors import ConfigError

from . import options as o

if TYPE_CHECKING:
    from nnvit.data.mask_reading import Stored

app = o.new_app(name="dataset", no_args_is_help=True, help="Make nnU-Net data sets from photographs and masks.")


@app.command(
    "import",
    epilog="Examples: nnvit dataset import photos masks -d 101 -n CHASE --mask-suffix _1stHO --label vessel=1 "
    "--group-by 'Image_(\\d+)'; nnvit dataset import photos -d 102 -n Lesions --mask 'MA=masks/*_MA' "
    "--mask 'EX=masks/*_EX' --allow-missing-masks",
)
def _import(
    images: Annotated[Path, Argument(help="Folder of jpg, png, bmp or tif pictures, or of nii.gz volumes.")],
    d: Annotated[int, Option("-d", "--dataset-id", help="Dataset number, 1 to 999.", min=1, max=999)],
    name: Annotated[str, Option("-n", "--name", help="Dataset name.")],
    masks: Annotated[
        Path | None,
        Argument(
            help="Folder of png, bmp, gif or tif masks (nii.gz for volumes), of 0/255, 0..n or colours. Left out with --mask."
        ),
    ] = None,
    mask_suffix: o.SuffixOption = "",
    label: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=VALUE",
            help="For each value as the mask files store it: vessel=255, or a colour, vessel=#ff0000 or vessel=255,0,0. "
            "0 (black) is the background, or the colour given to 'background'.",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=FOLDER",
            help="Instead of MASKS, for each label the folder of its masks; or 'NAME=FOLDER/*SUFFIX', if other files lie "
            "there or names differ. Pixels that are not 0 have the label.",
        ),
    ] = None,
    overlap: Annotated[
        str, Option(help="For masks of an image that overlap: refuse, or first: the --mask named first wins.")
    ] = "refuse",
    allow_missing_masks: Annotated[
        bool, Option("--allow-missing-masks", help="Treat a --mask that an image lacks as empty.")
    ] = False,
    channel_names: Annotated[
        str | None,
        Option(
            metavar="A,B,...",
            help="Names of the channels. Pages of a tif, a volume's 4th dimension and alpha are channels only if that "
            "makes this number. With zscore, nnU-Net treats a channel called CT as CT.",
        ),
    ] = None,
    group_by: Annotated[
        str | None, Option(metavar="REGEX", help="Finds the patient in an image's name; no patient is in two folds.")
    ] = None,
    num_folds: Annotated[int, Option(help="Folds of the cross-validation, with --group-by.", min=2)] = 5,
    validate_on: Annotated[
        str | None,
        Option(metavar="REGEX", help="One fold only, which validates on the groups whose whole name matches."),
    ] = None,
    hold_out: Annotated[
        str | None,
        Option(
            metavar="REGEX",
            help="Groups (without --group-by: names) whose whole name matches become the test set, imagesTs.",
        ),
    ] = None,
    normalization: Annotated[
        str | None,
        Option(
            help="rgb01: values in 0..1, the backbone's statistics apply; zscore: per image; ct: by the data set's "
            "statistics. By default rgb01 for pictures, zscore for volumes."
        ),
    ] = None,
    np: Annotated[
        int | None, Option("-np", help="Files to work on at a time. By default one per core, at most 8.", min=1)
    ] = None,
    preview: Annotated[int, Option(help="Cases to show in the data set's preview.png; 0 for none.", min=0)] = 4,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the data set of that number.")] = False,
) -> None:
    """Turn images and masks into nnUNet_raw/DatasetXXX_Name; the same import again changes nothing."""
    from nnvit.data.importer import import_dataset
    from nnvit.nnunet.paths import folder

    report = import_dataset(
        images,
        masks,
        d,
        name,
        raw=folder("nnUNet_raw"),
        preprocessed=folder("nnUNet_preprocessed"),
        masks_by_label=_masks(mask),
        mask_suffix=mask_suffix,
        labels=_labels(label),
        overlap=overlap,
        allow_missing_masks=allow_missing_masks,
        channel_names=tuple(part.strip() for part in channel_names.split(",")) if channel_names else None,
        group_by=group_by,
        num_folds=num_folds,
        validate_on=validate_on,
        hold_out=hold_out,
        normalization=normalization,
        workers=np,
        preview=preview,
        overwrite=overwrite,
    )
    print("\n".join(report.lines()))


@app.command("synthesize", epilog="Example: nnvit dataset synthesize photographs --num 24 --size 384 --seed 0")
def _synthesize(
    out: Annotated[Path, Argument(help="Folder to make; it gets images/ and masks/.")],
    num: Annotated[int, Option(help="Number of photographs, two per patient.", min=1)] = 24,
    size: Annotated[int, Option(help="Height and width in pixels.", min=64)] = 384,
    seed: Annotated[int, Option(help="The same seed gives the same photographs.")] = 0,
) -> None:
    """Make synthetic fundus photographs with vessel masks, for demos and dry runs."""
    from nnvit.data.synthetic import generate

    generate(out, num=num, size=size, seed=seed)
    print(f"{num} photographs in {out}/images, their vessels in {out}/masks")


def _labels(pairs: list[str] | None) -> "dict[str, Stored] | None":
    from nnvit.data.mask_reading import LabelValues

    labels: dict[str, Stored] = {}
    for pair in pairs or []:
        name, _, text = pair.partition("=")
        stored = LabelValues.parse_stored(text)
        if not name or stored is None:
            raise ConfigError(
                f"--label {pair} must be name=value with a whole number or a colour, such as vessel=255, "
                "vessel=#ff0000 or vessel=255,0,0."
            )
        if name in labels or (name == "background" and isinstance(stored, int)):
            raise ConfigError(f"--label {pair}: each name is given once, and value 0 is the background by itself.")
        labels[name] = stored
    return labels or None


def _masks(pairs: list[str] | None) -> dict[str, Path] | None:
    masks = {}
    for pair in pairs or []:
        name, _, place = pair.partition("=")
        if not name or not place or name in masks:
            raise ConfigError(f"--mask {pair} must be name=folder, each name once, such as vessel=masks.")
        masks[name] = Path(place)
    return masks or None
