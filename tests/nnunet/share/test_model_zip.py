"""`nnvit install`: zips of stock nnU-Net and of ours are installed completely; any other file leaves nothing behind."""

import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import huggingface_hub
import pytest
import torch
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from safetensors.torch import save_file

from nnvit import registry
from nnvit.errors import ConfigError, DataError, NnvitError, PlansError, WeightsError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet import paths as folders
from nnvit.nnunet.share import model_export, model_zip
from nnvit.nnunet.share.model_export import ExportOptions, export
from nnvit.nnunet.share.model_zip import install
from nnvit.records.hashes import sha256_of
from nnvit.records.json_files import read_json
from nnvit.weights import external
from nnvit.weights.state_dicts import target_tensors
from tests.nnunet.conftest import ONE_TILE, TINY, command, untrained

MODEL = "nnUNetTrainer_nnvit__nnUNetPlans_to_send__2d"


@pytest.fixture(scope="module")
def model(hippocampus: str) -> Path:
    folder = untrained(hippocampus, *TINY, ONE_TILE, "name=to_send")
    fold = folder / "fold_0"
    (fold / "validation").mkdir()
    (fold / "validation" / "summary.json").write_text("{}")
    (fold / "progress.png").write_bytes(b"png")
    (folder / "dataset_fingerprint.json").write_text("{}")
    together = folder / "crossval_results_folds_0"
    together.mkdir()
    (together / "summary.json").write_text("{}")
    (together / "postprocessing.json").write_text("{}")
    with open(together / "postprocessing.pkl", "wb") as file:
        pickle.dump(([remove_all_but_largest_component_from_segmentation], [{"labels_or_regions": 1}]), file)
    return folder


@pytest.fixture(scope="module")
def stock_zip(model: Path, hippocampus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that nnUNetv2_export_model_to_zip writes."""
    path = tmp_path_factory.mktemp("zips") / "stock.zip"
    trainer, plans, configuration = model.name.split("__")
    export_pretrained_model(hippocampus, str(path), (configuration,), trainer, plans, (0,))
    return path


@pytest.fixture
def results(folders: Path) -> Iterator[Path]:
    """nnUNet_results; what a test installs is removed at its end."""
    home = folders / "results"
    before = set(home.iterdir())
    yield home
    for path in set(home.iterdir()) - before:
        shutil.rmtree(path)


def content_of(folder: Path) -> dict[str, str]:
    """Files and their hashes, except nnU-Net's log, which no zip contains."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("training_log")]
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


def test_a_zip_of_stock_nnunet_arrives_whole_under_another_name(stock_zip: Path, model: Path, results: Path) -> None:
    done = install(stock_zip, "Dataset901_Theirs")
    target = results / "Dataset901_Theirs" / MODEL
    assert done.paths == [target]
    assert content_of(target) == content_of(model)
    assert "-d Dataset901_Theirs -tr nnUNetTrainer_nnvit -p nnUNetPlans_to_send -c 2d -f 0" in done.lines()[1]
    assert not list(results.glob(".nnvit_install_*"))


def test_the_command_installs_what_export_wrote_and_stock_nnunet_predicts_with_it(
    model: Path, hippocampus: str, results: Path, tmp_path: Path
) -> None:
    export(model, tmp_path / "ours.zip")
    program = str(Path(sys.executable).parent / "nnvit")
    words = [program, "install", str(tmp_path / "ours.zip"), "--name", "Dataset902_Ours"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predict = next(line for line in done.stdout.splitlines() if line.startswith("predict: "))
    (tmp_path / "in").mkdir()
    shutil.copy(sorted((Path(os.environ["nnUNet_raw"]) / hippocampus / "imagesTr").iterdir())[-1], tmp_path / "in")
    words = predict.removeprefix("predict: ").replace("IMAGES", str(tmp_path / "in")).split()
    words[words.index("OUT")] = str(tmp_path / "out")
    command(*words, "-device", "cpu")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_stock_nnunet_installs_what_export_wrote(model: Path, hippocampus: str, tmp_path: Path) -> None:
    export(model, tmp_path / "ours.zip")
    (tmp_path / "elsewhere").mkdir()
    command(
        "nnUNetv2_install_pretrained_model_from_zip", str(tmp_path / "ours.zip"),
        nnUNet_results=str(tmp_path / "elsewhere"),
    )  # fmt: skip
    there = tmp_path / "elsewhere" / hippocampus / MODEL
    assert (there / "README.txt").is_file()
    assert (there / "crossval_results_folds_0" / "postprocessing.pkl").is_file()


def test_a_model_that_is_there_is_never_overwritten(stock_zip: Path, model: Path, results: Path) -> None:
    before = content_of(results)
    with pytest.raises(PlansError, match=rf"{model} exists and is left as it is.*--name Dataset900_Theirs"):
        install(stock_zip)
    assert content_of(results) == before


def test_a_number_with_two_names_is_refused(stock_zip: Path, results: Path) -> None:
    with pytest.raises(
        DataError, match=r"number of Dataset102_Other belongs to Dataset102_Hippocampus here.*--name Dataset9"
    ):
        install(stock_zip, "Dataset102_Other")
    with pytest.raises(ConfigError, match="must be of nnU-Net's form"):
        install(stock_zip, "../Dataset900_X")


def test_a_model_that_refers_to_a_file_says_what_it_needs(hippocampus: str, results: Path, tmp_path: Path) -> None:
    base, family = tmp_path / "base.safetensors", registry.family("tiny")
    save_file(target_tensors(family().build("vit", [3]).model), base)
    keys = [*TINY, ONE_TILE, f"model.weights={base}", "checkpoint.frozen_weights=reference", "name=leaning"]
    model = untrained(hippocampus, *keys)
    base.unlink()
    external.forget()
    with zipfile.ZipFile(tmp_path / "leaning.zip", "w") as zipped:
        for path in model.rglob("*"):
            zipped.write(path, Path("Dataset903_Leaning", model.name) / path.relative_to(model))
    (note,) = install(tmp_path / "leaning.zip").notes
    assert "it cannot predict yet" in note
    assert "base.safetensors" in note


class RunsCode:
    """An object with code that an attacker might put into a checkpoint."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("owned",)


def changed(source: Path, out: Path, change: Callable[[zipfile.ZipFile, str], None], without: str = "\0") -> Path:
    """A copy of the zip for Dataset904, with a file left out and what `change` adds."""
    home = f"Dataset904_Bad/{MODEL}"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if without not in info.filename:
                new.writestr(info.filename.replace("Dataset102_Hippocampus", "Dataset904_Bad"), old.read(info))
        change(new, home)
    return out


def link(zipped: zipfile.ZipFile, home: str) -> None:
    info = zipfile.ZipInfo(f"{home}/fold_0/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped.writestr(info, "/etc/passwd")


def running_checkpoint(zipped: zipfile.ZipFile, home: str) -> None:
    with zipped.open(f"{home}/fold_0/checkpoint_best.pth", "w") as file:
        torch.save({"network_weights": {}, "x": RunsCode()}, file)


def running_in_capitals(zipped: zipfile.ZipFile, home: str) -> None:
    with zipped.open(f"{home}/fold_0/x.PTH", "w") as file:
        torch.save({"network_weights": {}, "x": RunsCode()}, file)


def plans_of(network: str, imported: Sequence[str] = (), **layers: str | None) -> bytes:
    described = {"network_class_name": network, "arch_kwargs": layers, "_kw_requires_import": list(imported)}
    return json.dumps({"configurations": {"2d": {"architecture": described}}}).encode()


SYSTEM = "torch.nn.functional.torch.os.system"
HUB = "nnvit.model.segmenter.torch.hub.load"
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def add(name: str, content: bytes = b"x") -> Callable[[zipfile.ZipFile, str], None]:
    return lambda zipped, home: zipped.writestr(name.replace("HOME", home), content)


BAD: dict[str, tuple[Callable[[zipfile.ZipFile, str], None], str, type[NnvitError], str]] = {
    "a path above": (add("HOME/../../../evil"), "\0", DataError, "a path that leaves its folder"),
    "an absolute path": (add("/tmp/evil"), "\0", DataError, "not a path inside a folder"),
    "a drive": (add("C:/evil"), "\0", DataError, "not a path inside a folder"),
    "backslashes": (add("HOME\\..\\evil"), "\0", DataError, "not a path inside a folder"),
    "a link": (link, "\0", DataError, "a link or device"),
    "a file of no model": (add("Dataset905_Other/evil.txt"), "\0", DataError, "belongs to none"),
    "a name twice": (add("HOME/DATASET.json"), "\0", DataError, "twice"),
    "no data set": (add("HOME/x.txt"), "dataset.json", DataError, "lacks its dataset.json"),
    "no plans": (add("HOME/x.txt"), "plans.json", DataError, "is no zip of nnU-Net models"),
    "a checkpoint that runs code": (
        running_checkpoint,
        "\0",
        WeightsError,
        r"bad.zip:.*checkpoint_best.pth asks to run",
    ),
    "another file as checkpoint": (
        add("HOME/fold_0/checkpoint_x.pth"),
        "\0",
        WeightsError,
        "cannot be read as a checkpoint",
    ),
    "a pickle": (add("HOME/fold_0/x.pkl", pickle.dumps(1)), "\0", WeightsError, "is a pickle"),
    "postprocessing that runs code": (
        add("HOME/crossval_results_folds_0/postprocessing.pkl", pickle.dumps(RunsCode())),
        "postprocessing.pkl",
        WeightsError,
        r"asks to run 'posix.mkdir'",
    ),
    "a checkpoint in capitals": (running_in_capitals, "\0", WeightsError, r"bad.zip:.*x.PTH asks to run"),
    "weights of another name": (
        add("HOME/fold_0/x.dat"),
        "\0",
        DataError,
        r"x.dat', which is of a kind that no export",
    ),
    "a name that colours": (
        add("HOME/\x1b[31m.txt"),
        "\0",
        DataError,
        r"\\x1b\[31m.txt', which is a name with control characters",
    ),
    "a class of another package": (
        add("HOME/plans.json", plans_of("subprocess.Popen")),
        "plans.json",
        PlansError,
        "its plans name 'subprocess.Popen'",
    ),
    "a command within torch's reach": (
        add("HOME/plans.json", plans_of(UNET, ["nonlin"], nonlin=SYSTEM)),
        "plans.json",
        PlansError,
        f"its plans name '{SYSTEM}'",
    ),
    "a download within nnvit's reach": (
        add("HOME/plans.json", plans_of(HUB)),
        "plans.json",
        PlansError,
        f"its plans name '{HUB}'",
    ),
    "a module that nnUNetTrainerBN imports": (
        add("HOME/plans.json", plans_of(UNET, conv_op="antigravity")),
        "plans.json",
        PlansError,
        "its plans name 'antigravity'",
    ),
    "a second model within": (
        add("HOME/crossval_results_folds_0/plans.json", plans_of(HUB)),
        "\0",
        PlansError,
        f"its plans name '{HUB}'",
    ),
    "plans of another form": (add("HOME/plans.json", b"[1]"), "plans.json", PlansError, "not of nnU-Net's form"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_could_do_harm_is_refused_and_leaves_nothing(
    what: str, stock_zip: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, without, error, words = BAD[what]
    path = changed(stock_zip, tmp_path / "bad.zip", change, without)
    before = content_of(results)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        install(path)
    assert content_of(results) == before
    assert {p.name for p in results.iterdir()} == {Path(name).parts[0] for name in before}
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


@pytest.mark.parametrize(
    "network", [UNET, "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"]
)
def test_networks_of_stock_nnunet_pass_and_those_whose_modules_it_renamed(network: str, hippocampus: str) -> None:
    model_zip._check_names(folders.PreprocessedDataset(hippocampus).plans("nnUNetPlans"))
    layers = {"conv_op": "torch.nn.modules.conv.Conv2d", "nonlin": "torch.nn.LeakyReLU", "dropout_op": None}
    model_zip._check_names(json.loads(plans_of(network, list(layers), **layers)))


def test_predictions_that_nnunet_exports_on_request_arrive(stock_zip: Path, results: Path, tmp_path: Path) -> None:
    endings = {ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings}

    def predictions(zipped: zipfile.ZipFile, home: str) -> None:
        for ending in endings:
            zipped.writestr(f"{home}/fold_0/validation/case{ending}", b"x")

    (target,) = install(changed(stock_zip, tmp_path / "with.zip", predictions)).paths
    assert {path.name[4:] for path in target.glob("fold_0/validation/case*")} == endings


def test_every_kind_of_file_that_export_writes_arrives(
    model: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_export, "_ONNX_INSIDE", 0)  # so that the weights get a file of their own
    options = ExportOptions(safetensors=True, onnx=True)
    export(model, tmp_path / "all.zip", options=options)
    (target,) = install(tmp_path / "all.zip", "Dataset911_All").paths
    names = {path.name for path in (target / "fold_0").iterdir()}
    assert names >= {"checkpoint_final.pth", "model.safetensors", "model.onnx", "model.onnx.data", "progress.png"}


def referring_zip(source: Path, out: Path, **forged: object) -> Path:
    """A zip whose checkpoint leaves weights out and describes them as nnvit never does."""
    plain = {"file": "base.pth", "sha256": hashlib.sha256().hexdigest(), "tensors_sha256": "", "family": "", "spec": ""}
    text = json.dumps(plain | {"source": "file", "licence": "", "shapes": {}, "dtypes": {}} | forged)

    def forging(zipped: zipfile.ZipFile, home: str) -> None:
        entry = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        with zipped.open(f"{home}/fold_0/checkpoint_final.pth", "w") as file:
            torch.save({"network_weights": {external.KEY: entry}}, file)

    return changed(source, out, forging, "checkpoint_final.pth")


@pytest.mark.parametrize(
    ("field", "value"),
    [("path", ["x"]), ("size", "1"), ("shapes", {"x": "y"}), ("dtypes", {"x": "object"}), ("file", None)],
)
def test_a_reference_of_other_types_is_refused(
    field: str, value: object, stock_zip: Path, results: Path, tmp_path: Path
) -> None:
    path = referring_zip(stock_zip, tmp_path / "forged.zip", **{field: value})
    with pytest.raises(WeightsError, match=rf"its {field} is of another type.*damaged.*Nothing was installed"):
        install(path)


def test_a_reference_reads_no_device_and_searches_no_pattern(
    stock_zip: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "hub" / "models--a--b" / "snapshots" / "c" / "mine.bin"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # /dev/null ends at once and has the hash that is given; /dev/zero would be read for ever
    (note,) = install(referring_zip(stock_zip, tmp_path / "forged.zip", path=os.devnull, file="*")).notes
    assert f"{os.devnull} (a device or pipe)" in note
    assert "mine.bin" not in note


@pytest.mark.parametrize("path", ["/proc/self/status", "x" * 300])
def test_a_reference_to_what_cannot_be_weights_is_said_so(
    path: str, stock_zip: Path, results: Path, tmp_path: Path
) -> None:
    (note,) = install(referring_zip(stock_zip, tmp_path / "forged.zip", path=path)).notes
    assert re.search(rf"{path} \((another file: 0 bytes|File name too long)\)", note)


def test_lines_to_paste_into_a_shell_hold_nothing_that_it_runs(stock_zip: Path, results: Path, tmp_path: Path) -> None:
    evil = MODEL.replace("to_send", "x;touch owned;")
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(stock_zip) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(f"Dataset912_Evil/{info.filename.partition('/')[2].replace(MODEL, evil)}", old.read(info))
    for line in install(path).then:
        words = shlex.split(line)
        assert "touch" not in words
        assert any("x;touch owned;" in word for word in words)


def test_a_damaged_zip_and_none_at_all_are_said_so(stock_zip: Path, results: Path, tmp_path: Path) -> None:
    content = bytearray(stock_zip.read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "flipped.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(stock_zip.read_bytes()[:-2000])
    before = content_of(results)
    for name in ("flipped", "cut", "absent"):
        with pytest.raises(DataError, match=f"{name}.zip cannot be read as a zip"):
            install(tmp_path / f"{name}.zip", "Dataset906_Damaged")
    assert content_of(results) == before


def test_a_full_disk_is_noticed_before_anything_is_written(
    stock_zip: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(results)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match="Make room"):
        install(stock_zip, "Dataset907_Large")
    assert not (results / "Dataset907_Large").exists()


def test_models_of_one_zip_arrive_together_or_not_at_all(
    stock_zip: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = tmp_path / "two.zip"
    with zipfile.ZipFile(stock_zip) as old, zipfile.ZipFile(two, "w") as new:
        for dataset in ("Dataset908_One", "Dataset909_Two"):
            for info in old.infolist():
                new.writestr(info.filename.replace("Dataset102_Hippocampus", dataset), old.read(info))
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if "Dataset909_Two" in str(target):
            raise OSError("the disk is gone")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            install(two)
    assert not list(results.glob("Dataset90[89]*/*"))
    assert len(install(two).paths) == 2


def test_checkpoints_that_were_installed_load_safely(stock_zip: Path, results: Path) -> None:
    (target,) = install(stock_zip, "Dataset910_Read").paths
    assert checkpoint_file.read(target / "fold_0" / "checkpoint_final.pth")["network_weights"]
    assert read_json(target / "plans.json")["plans_name"] == "nnUNetPlans_to_send"
