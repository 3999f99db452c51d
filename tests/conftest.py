"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest

# nnU-Net reads these once, when it is imported: one worker for export, and augmentation in the training process itself.
os.environ["nnUNet_def_n_proc"] = "1"
os.environ["nnUNet_n_proc_DA"] = "0"
# No test contacts a hub; the client reads this once, too.
os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).parents[1]
SLOW_FIXTURES = {"folders", "browser", "fetches", "patch"}
"""nnU-Net's folders, a browser, downloads by other processes, a photograph to train on: not for tests of `make check`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses one of `SLOW_FIXTURES` as slow, directly or through another fixture."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout, or in NNVIT_TEST_DATA. Where they are absent, CI fails; others leave these out."""
    folder = Path(os.environ.get("NNVIT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"{folder} does not exist; put the test data there or point NNVIT_TEST_DATA at them")
    return folder
