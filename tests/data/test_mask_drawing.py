"""The sheet that shows a few cases."""

import numpy as np
import SimpleITK
from PIL import Image

from nnvit.data.mask_drawing import COLOURS as BY_NAME

from .conftest import Workplace

COLOURS = list(BY_NAME.values())


def test_preview_outlines_the_labels_of_random_cases(place: Workplace) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:60] = 1
    mask[45:50, 5:15] = 2
    mask[45:50, 25:35] = 3
    for stem in "abcdef":
        place.image(f"{stem}.png", np.full((60, 80), 90, np.uint8))
        place.mask(f"{stem}.png", mask)
    place.run(preview=3)
    sheet = np.asarray(Image.open(place.target / "preview.png"))
    first = sheet.tobytes()
    assert all((sheet == colour).all(axis=-1).any() for colour in COLOURS[:3])
    line = (sheet == COLOURS[0]).all(axis=-1)
    # three outlines of a rectangle of 240 x 120 pixels of the sheet, and its square in the legend
    assert 3 * 720 < line.sum() < 3 * 740 + 15 * 15
    place.run(preview=3, overwrite=True)
    assert np.asarray(Image.open(place.target / "preview.png")).tobytes() == first


def test_preview_shows_the_fullest_slice_of_a_volume_in_true_proportions(place: Workplace) -> None:
    voxels = np.zeros((6, 20, 40), np.int16)
    voxels[4] = 100
    mask = np.zeros(voxels.shape, np.uint8)
    mask[4, 5:15, 10:30] = 1
    mask[1, 5:6, 10:30] = 1
    for folder, content in (("images", voxels), ("masks", mask)):
        image = SimpleITK.GetImageFromArray(content)
        image.SetSpacing((1.0, 4.0, 5.0))
        SimpleITK.WriteImage(image, str(place.root / folder / "a.nii.gz"))
    place.run(preview=4)
    sheet = np.asarray(Image.open(place.target / "preview.png"))
    line = (sheet[:-40] == COLOURS[0]).all(axis=-1)
    rows, columns = np.nonzero(line)
    # 10 x 20 voxels of 4 x 1 mm: twice as high as it is wide, and the sheet shows 80 mm with 480 pixels
    assert np.ptp(rows) == 10 * 4 * 6 + 1
    assert np.ptp(columns) == 20 * 1 * 6 + 1
