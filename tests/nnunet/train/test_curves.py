"""The display of a training, on a terminal and in TensorBoard."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.train.curves import Screen, TensorBoardLogger, _sparkline
from tests.nnunet.conftest import ONE_TILE, TINY, fold_of


def test_a_sparkline_runs_from_the_least_to_the_greatest() -> None:
    assert _sparkline([1.0, 0.5, 0.0], 10) == "█▅▁"
    assert _sparkline([3.0, 3.0], 10) == "▁▁"
    assert _sparkline([0.0, float("nan"), 1.0], 10) == "▁ █"
    assert _sparkline([float("nan")], 10) == " "
    assert len(_sparkline(list(range(100)), 10)) == 10


@pytest.mark.parametrize("width", [40, 100])
def test_the_screen_holds_curves_of_losses_and_classes_and_the_pace(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    screen = Screen("recipe  fold 0", ["artery", "vein"], console=console)
    advance = screen.phase("epoch 3/9", 250, 100)
    advance("loss 0.123")
    screen.epoch([0.9, 0.4], [0.8, 0.5], [[0.1, 0.2], [0.6, 0.7]], "0.50 s/it (2% waiting for data)  ETA 7 min")
    console.print(screen.render())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("recipe", "epoch 3/9", "training loss", "0.400", "Dice artery", "0.600", "Dice vein", "█▁", "▁█"):
        assert words in shown
    if width == 100:
        assert "101/250" in shown
        assert "0.50 s/it (2% waiting for data)  ETA 7 min" in shown


def test_tensorboard_leaves_out_what_was_written_beyond_the_checkpoint(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path, ["vessel"], 0)
    for epoch, dice in enumerate([0.1, 0.2, 0.3]):
        first.log("dice_per_class_or_region/class_1", dice, epoch)
        first.log("epoch_start_timestamps", 1e9, epoch)
    again = TensorBoardLogger(tmp_path, ["vessel"], 1)
    again.log("dice_per_class_or_region/class_1", 0.25, 1)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["pseudo_dice/vessel"]
    assert [(e.step, round(e.value, 2)) for e in events.Scalars("pseudo_dice/vessel")] == [(0, 0.1), (1, 0.25)]


def test_on_a_terminal_a_training_is_live_and_its_lines_stay(hippocampus: str) -> None:
    """The command on a pseudo-terminal: the frame with the curves is drawn, and the plain lines are printed as ever."""
    keys = [*TINY, ONE_TILE, "name=live"]
    master, slave = pty.openpty()
    program = str(Path(sys.executable).parent / "nnvit")
    environment = {**os.environ, "nnUNet_n_proc_DA": "1", "TERM": "xterm", "COLUMNS": "110", "LINES": "40"}
    process = subprocess.Popen(
        [program, "train", hippocampus, "2d", "0", *keys, "-device", "cpu"],
        env=environment, stdout=slave, stderr=slave, close_fds=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:  # the other end was closed
            break
    os.close(master)
    text = shown.decode()
    assert process.wait() == 0, text[-3000:]
    for words in (
        "live  fold 0",
        "pseudo Dice",
        "training loss",
        "Dice anterior",
        "epoch 2/2  loss",
        "waiting for data",
    ):
        assert words in text, words
    fold = fold_of(hippocampus, "nnUNetTrainer_nnvit", "nnUNetPlans_live")
    events = EventAccumulator(str(fold / "tensorboard")).Reload()
    logged = checkpoint_file.read(fold / "checkpoint_final.pth")["logging"]
    for tag, values in (
        ("loss/train", logged["train_losses"]),
        ("loss/val", logged["val_losses"]),
        ("pseudo_dice/posterior", [dice[1] for dice in logged["dice_per_class_or_region"]]),
    ):
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(values, rel=1e-6)
