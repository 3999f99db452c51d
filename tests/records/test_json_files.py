"""Records stay whole when several processes write at the same time."""

import multiprocessing
from pathlib import Path

from nnvit.records.json_files import read_json, write_json


def write_often(path: Path, content: list[int]) -> None:
    for _ in range(50):
        write_json(path, content)


def test_two_processes_that_write_one_record_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, contents = tmp_path / "fold_0" / "nnvit_run.json", ([1] * 10, [2] * 1000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert read_json(path) in contents
    assert [file.name for file in path.parent.iterdir()] == [path.name]
