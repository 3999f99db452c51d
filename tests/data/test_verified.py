"""nnU-Net's own check of a raw data set, on what the importer writes."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from .conftest import BINARY, Workplace


@pytest.mark.slow
def test_nnunet_itself_verifies_volumes_and_five_channels(
    place: Workplace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for stem in ("a", "b"):
        tifffile.imwrite(
            place.root / "images" / f"{stem}.tif",
            rng.integers(0, 255, (40, 48, 5), dtype=np.uint8),
            photometric="minisblack",
        )
        place.mask(f"{stem}.png", np.pad(BINARY, ((0, 34), (0, 40))))
    five = place.run(preview=2)
    volumes = Workplace(tmp_path / "volumes")
    for folder, high in (("images", 1000), ("masks", 3)):
        (volumes.root / folder).mkdir(parents=True)
        for stem in ("a", "b"):
            image = SimpleITK.GetImageFromArray(rng.integers(0, high, (6, 8, 9)).astype(np.int16))
            image.SetSpacing((0.7, 0.7, 2.5))
            SimpleITK.WriteImage(image, str(volumes.root / folder / f"{stem}.nii.gz"))
    solid = volumes.run(preview=2)
    assert (five.channels, solid.channels) == (5, 1)
    for report in (five, solid):
        assert (report.folder / "preview.png").is_file()
        verify_dataset_integrity(str(report.folder), num_processes=1)
    said = capfd.readouterr().out
    assert said.count("verify_dataset_integrity Done") == 2
    assert "ismatch" not in said
