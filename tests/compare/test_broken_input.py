"""Errors for broken input name the file, what was expected and what to do."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from nnvit.compare.comparison import compare
from nnvit.compare.inputs import references
from nnvit.compare.inputs.arms import Arm
from nnvit.compare.inputs.mask_files import masks_in, read_mask
from nnvit.compare.scores.metrics import Labels
from nnvit.compare.scores.scoring import ScoringJob, _score_job
from nnvit.errors import CompareError

from .planted import Study, change_json, examine, write_png

LABELS = Labels(values={"disc": (1,), "vessel": (2,)})


def volume(
    path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1), origin: tuple[float, ...] = (0, 0, 0)
) -> Path:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    SimpleITK.WriteImage(image, str(path))
    return path


def noise(shape: tuple[int, ...] = (12, 20, 24)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)


def refused(job: ScoringJob) -> str:
    with pytest.raises(CompareError) as caught:
        _score_job(job)
    return str(caught.value)


def job(reference: Path, prediction: Path, labels: Labels = LABELS) -> ScoringJob:
    return ScoringJob(reference=reference, prediction=prediction, labels=labels, tolerance=1.0)


# --- one mask ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".gif", ".bmp"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_a_truncated_mask(tmp_path: Path, ending: str, share: float) -> None:
    """SimpleITK reads a truncated .nii.gz as zeros; here every format raises an error."""
    path = tmp_path / f"case{ending}"
    if ending in (".png", ".tif", ".gif", ".bmp"):
        write_png(path, noise((64, 64)))
    else:
        volume(path, noise())
    assert read_mask(path).labels.any()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CompareError, match=re.escape(str(path)) + ".*cut short or damaged; copy it again"):
        read_mask(path)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "case.png"
    path.write_text("not an image")
    with pytest.raises(CompareError, match="cannot be read as a mask"):
        read_mask(path)


def test_a_colour_picture_is_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "case.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(path)
    with pytest.raises(CompareError, match="a mask has one channel that holds the labels"):
        read_mask(path)


def test_probabilities_are_no_mask(tmp_path: Path) -> None:
    path = volume(tmp_path / "case.nii.gz", np.random.default_rng(0).random((4, 5, 6)))
    with pytest.raises(CompareError, match="not whole, or NaN"):
        read_mask(path)


def test_whole_numbers_stored_as_floats_are_a_mask(tmp_path: Path) -> None:
    path = volume(tmp_path / "case.nii.gz", noise().astype(np.float32))
    np.testing.assert_array_equal(read_mask(path).labels, noise())


def test_two_masks_of_one_case(tmp_path: Path) -> None:
    write_png(tmp_path / "case.png", noise((8, 8)))
    write_png(tmp_path / "case.gif", noise((8, 8)))
    with pytest.raises(CompareError, match=r"two masks of the case 'case', case\.gif and case\.png"):
        masks_in(tmp_path)


# --- a mask and its reference ------------------------------------------------------------------------------------------


def test_another_shape(tmp_path: Path) -> None:
    for name, shape in (("ref", (20, 20)), ("pred", (20, 22))):
        write_png(tmp_path / f"{name}.png", noise(shape))
    said = refused(job(tmp_path / "ref.png", tmp_path / "pred.png"))
    assert "pred.png has another geometry than its reference" in said
    assert "20 x 22 against 20 x 20" in said


@pytest.mark.parametrize(
    ("spacing", "origin", "said"),
    [
        ((1, 1, 2), (0, 0, 0), "spacing 2 x 1 x 1 mm against 1 x 1 x 1 mm"),
        ((1, 1, 1), (5, 0, 0), "origin 5 x 0 x 0 mm against"),
    ],
)
def test_another_geometry(tmp_path: Path, spacing: tuple[float, ...], origin: tuple[float, ...], said: str) -> None:
    reference = volume(tmp_path / "ref.nii.gz", noise())
    prediction = volume(tmp_path / "pred.nii.gz", noise(), spacing, origin)
    assert said in refused(job(reference, prediction))


def test_labels_outside_the_data_set(tmp_path: Path) -> None:
    write_png(tmp_path / "ref.png", noise((20, 20)))
    write_png(tmp_path / "pred.png", noise((20, 20)) * 7)
    said = refused(job(tmp_path / "ref.png", tmp_path / "pred.png"))
    assert "pred.png holds the labels 7, 14, which the data set does not define (it has 0, 1, 2)" in said


def test_a_second_observer_may_store_one_label_as_255(tmp_path: Path) -> None:
    one = Labels(values={"vessel": (1,)})
    write_png(tmp_path / "ref.png", noise((20, 20)) > 0)
    write_png(tmp_path / "human.png", (noise((20, 20)) > 0) * 255)
    assert "holds the labels 255" in refused(job(tmp_path / "ref.png", tmp_path / "human.png", one))
    lenient = ScoringJob(
        reference=tmp_path / "ref.png", prediction=tmp_path / "human.png", labels=one, tolerance=1.0, lenient=True
    )
    assert _score_job(lenient)["vessel"]["dice"] == 1


# --- arms --------------------------------------------------------------------------------------------------------------


def test_an_arm_twice(study: Study) -> None:
    (one, other) = sorted(study.results.iterdir())
    with pytest.raises(CompareError, match=f"{one.name}.* is given twice"):
        Arm.find([one, other, f"again={one}"])


def test_an_empty_folder(study: Study, tmp_path: Path) -> None:
    empty = tmp_path / "nothing"
    empty.mkdir()
    with pytest.raises(CompareError, match="nothing holds neither fold_0, fold_1, … nor masks"):
        Arm.find([*study.results.iterdir(), empty])


def test_a_fold_without_masks(study: Study) -> None:
    model = sorted(study.results.iterdir())[0]
    for fold in ("fold_0", "fold_1"):
        shutil.rmtree(model / fold / "validation")
    with pytest.raises(CompareError, match=r"fold 0, 1 holds no masks in validation/.*--val"):
        Arm.find([model])


def test_a_fold_that_is_not_there(study: Study) -> None:
    with pytest.raises(CompareError, match="has no fold 4; it has 0, 1"):
        Arm.find(list(study.results.iterdir()), folds=["0", "4"])


def test_a_word_that_is_no_folder() -> None:
    with pytest.raises(CompareError, match=r"unet is not a folder.*--dataset"):
        Arm.find(["unet"])


def test_a_name_that_is_not_among_the_results(study: Study) -> None:
    with pytest.raises(CompareError, match=r"'vitt' is no arm in .*nnUNetTrainer__nnUNetPlans__2d"):
        Arm.find(["vitt"], datasets=["777"])


def test_a_data_set_that_is_not_there(study: Study) -> None:
    with pytest.raises(CompareError, match=r"--dataset 12 is not in .*Dataset777_Planted"):
        Arm.find(["vit"], datasets=["12"])


def test_a_name_that_could_be_two_arms(study: Study) -> None:
    study.stock("otherTrainer__nnUNetPlans__2d")
    with pytest.raises(CompareError, match=r"could be any of nnUNetTrainer__nnUNetPlans__2d, otherTrainer"):
        Arm.find(["nnUNetPlans"], datasets=["777"])


def test_one_arm_alone(study: Study, tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="needs two arms, got one: vit"):
        compare(["vit"], dataset="777", out=tmp_path / "out")


def test_a_baseline_that_is_no_arm(study: Study, tmp_path: Path) -> None:
    with pytest.raises(CompareError, match=r"--baseline vitt is none of the arms.*Did you mean 'vit'"):
        compare(list(study.results.iterdir()), baseline="vitt", out=tmp_path / "out")


def test_an_empty_name(study: Study) -> None:
    with pytest.raises(CompareError, match="must be NAME=PATH"):
        Arm.find([f"={next(study.results.iterdir())}/x"])


def test_a_damaged_record(study: Study, tmp_path: Path) -> None:
    models = sorted(study.results.iterdir())
    (models[0] / "fold_0" / "debug.json").write_text("{")
    with pytest.raises(CompareError, match=r"debug\.json is not valid JSON"):
        examine(models, out=tmp_path / "out")


# --- what the arms are scored against ----------------------------------------------------------------------------------


def test_a_missing_reference(study: Study, tmp_path: Path) -> None:
    other = tmp_path / "references"
    shutil.copytree(study.references, other)
    (other / "case_04.png").unlink()
    with pytest.raises(CompareError, match=r"no reference mask of case_04; looked in .*references.*--reference"):
        examine(list(study.results.iterdir()), reference=other, out=tmp_path / "out")


def test_no_references_at_all(study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine to which only the results were copied."""
    monkeypatch.delenv("nnUNet_preprocessed")
    for summary in study.results.rglob("summary.json"):
        change_json(
            summary,
            lambda held: [e.update(reference_file=f"/nowhere/{i}.png") for i, e in enumerate(held["metric_per_case"])],
        )
    with pytest.raises(CompareError, match=r"neither nnUNet_preprocessed nor nnUNet_raw is set.*--reference"):
        examine(list(study.results.iterdir()), out=tmp_path / "out")


def test_a_tolerance_below_the_voxel_size(tmp_path: Path) -> None:
    path = volume(tmp_path / "case.nii.gz", noise(), (0.5, 0.5, 3))
    with pytest.raises(CompareError, match=r"--nsd-tolerance 0\.4 is below the voxels' shortest edge of 0\.5 mm"):
        references._tolerance([path], 0.4)
    assert references._tolerance([path], None) == (3, [])
    tolerance, (note,) = references._tolerance([path], 1.0)
    assert tolerance == 1
    assert "below the longest edge of the voxels (3 mm)" in note


def test_a_tubular_label_that_is_none(study: Study, tmp_path: Path) -> None:
    with pytest.raises(CompareError, match=r"--tubular vessels is no label of .*disc, vessel.*Did you mean 'vessel'"):
        compare(list(study.results.iterdir()), tubular=["vessels"], out=tmp_path / "out", quiet=True)


def test_a_second_observer_without_a_mask_of_any_case(study: Study, tmp_path: Path) -> None:
    write_png(tmp_path / "someone.png", noise((8, 8)))
    with pytest.raises(CompareError, match=r"holds no mask whose name is or begins with a case's.*it holds someone"):
        compare(list(study.results.iterdir()), human=tmp_path, out=tmp_path / "out", quiet=True)


def test_a_metric_that_is_not_measured(study: Study, tmp_path: Path) -> None:
    with pytest.raises(CompareError, match=r"--metric hd95 is not measured.*Did you mean 'hd95_mm'"):
        compare(list(study.results.iterdir()), metric="hd95", out=tmp_path / "out")
