"""The page's content, in every shape that a comparison can have; tests/browser drives it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nnvit.compare import Options
from nnvit.compare.report import _paragraphs
from tests.compare.sample import HOSTILE, Sample, whole_report, write

SECTIONS = [
    "answer",
    "scores",
    "differences",
    "ranks",
    "cost",
    "pictures",
    "every-case",
    "audit",
    "limits",
    "methods",
    "files",
]


class Page(HTMLParser):
    """The parts of a page that tests ask for: its elements, and the text under each section."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.elements, self.sections, self.section = text, [], {"": ""}, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "h2":
            self.section = str(dict(attrs)["id"])
            self.sections[self.section] = ""

    def handle_data(self, data: str) -> None:
        self.sections[self.section] += data

    def attributes(self, name: str) -> Iterator[str]:
        return (str(attrs[name]) for _, attrs in self.elements if name in attrs)


def _page(out: Path, **changes: Any) -> Page:
    return Page(write(out, **changes).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole sample's report."""
    return whole_report(tmp_path_factory)


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_the_page_opens_with_the_answer_the_verdict_and_a_picture(page: Page) -> None:
    order = [page.text.index(mark) for mark in ("<h1>", "Audit: fair with declared differences", 'role="img"', "<h2")]
    assert order == sorted(order)
    assert "is better than" in page.sections[""]


def test_the_reserve_stands_as_large_as_the_claim(tmp_path: Path) -> None:
    page = _page(tmp_path, arms=("unet", "vit"), labels=("vessel",), runs=1, human=False)
    (large, small) = re.findall(r"<h1>(.*?)<span>(.*?)</span></h1>", page.text)[0]
    assert "3 trainings" in large or "not shown" in large
    assert small.startswith("mean Dice 0.")


def test_every_section_is_there_and_linked(page: Page) -> None:
    assert [name for name in page.sections if name] == SECTIONS
    links = {target[1:] for target in page.attributes("href") if target.startswith("#")}
    assert links <= set(page.attributes("id"))


def test_ids_are_unique(page: Page) -> None:
    ids = list(page.attributes("id"))
    assert len(ids) == len(set(ids))


def test_the_page_asks_for_nothing_beyond_itself(page: Page) -> None:
    targets = [*page.attributes("src"), *page.attributes("href"), *page.attributes("xlink:href")]
    assert {target.split(",")[0].split("#")[0] for target in targets} <= {
        "",
        "data:",
        "data:image/png;base64",
        "data:image/jpeg;base64",
    }
    assert not re.search(r"@import|url\((?!#)", page.text)


def test_only_the_pages_own_script_may_run(page: Page) -> None:
    (policy,) = [attrs["content"] for tag, attrs in page.elements if "http-equiv" in attrs]
    script = re.findall(r"<script>(.*?)</script>", page.text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'")


def test_names_from_outside_are_text_and_nothing_else(page: Page) -> None:
    assert HOSTILE in page.sections["cost"]
    assert "onerror" not in {name for _, attrs in page.elements for name in attrs}
    assert "img" not in {tag for tag, _ in page.elements}
    assert "49" not in page.sections["cost"]
    assert page.text.count("</script>") == 2


def test_the_table_of_cases_holds_every_metric(page: Page) -> None:
    (data,) = re.findall(r'<script type="application/json" id="case-data">(.*?)</script>', page.text)
    found = json.loads(data)
    assert {"dice", "hd95_mm", "nsd", "cldice", "fp_volume_mm3"} <= set(found)
    assert {len(metric["values"]) for metric in found.values()} == {40}


def test_n_and_intervals_stand_beside_the_means(page: Page) -> None:
    assert "n = 20" in page.sections[""]
    assert re.search(r"0\.\d{4}\s*0\.\d{4} to 0\.\d{4}", page.sections["scores"])


def test_a_mailed_page_does_not_say_whose_machine_it_was(page: Page) -> None:
    assert "…/results/folder_0" in page.sections["files"]
    assert "nnvit compare unet=…/results/folder_0 --out x/y" in page.sections["files"]
    assert "somebody" not in page.text


def test_figures_and_tables_lie_beside_the_page(out: Path) -> None:
    figures = {"differences", "classes", "cases", "ranks", "pareto"}
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in figures for kind in ("svg", "pdf")
    }
    names = {"scores.tex", "differences.tex", "cost.tex", "audit.tex", "references.bib"}
    assert {path.name for path in (out / "tables").iterdir()} == names


def test_latex_tables_are_escaped(out: Path) -> None:
    scores = (out / "tables" / "scores.tex").read_text(encoding="utf-8")
    assert r"vit\_random" in scores
    assert r"disc \& cup" in scores
    assert "<" not in scores


def test_every_citation_of_the_methods_has_its_reference(page: Page, out: Path) -> None:
    text = page.sections["methods"]
    numbers = {int(n) for group in re.findall(r"\[([\d, ]+)\]", text) for n in group.split(",")}
    entries = re.findall(r"@misc\{(\w+),", (out / "tables" / "references.bib").read_text(encoding="utf-8"))
    assert numbers == set(range(1, len(entries) + 1))
    assert {"isensee2021nnunet", "efron1987bca", "pratt1959zeros", "nadeau2003inference", "shit2021cldice"} <= set(
        entries
    )


def test_the_second_observer_is_a_line_with_n(page: Page) -> None:
    assert re.search(r"A second observer agrees .* n = 20 cases", page.sections["scores"])


def test_the_page_is_small(out: Path) -> None:
    assert (out / "report.html").stat().st_size < 2_000_000


def test_two_arms_one_fold_one_class_and_nothing_known(tmp_path: Path) -> None:
    page = _page(
        tmp_path,
        arms=("a", "b"),
        labels=("vessel",),
        folds=1,
        runs=1,
        baseline=None,
        human=False,
        costs=False,
        num_cases=6,
    )
    assert "ranks" not in page.sections
    assert "unknown" in page.sections["cost"]
    assert "mean over classes" not in page.text
    assert "There is one fold" in page.sections["limits"]
    assert "No second observer" in page.sections["limits"]
    assert "clDice [" in page.sections["methods"]


def test_a_metric_where_less_is_better(tmp_path: Path) -> None:
    page = _page(
        tmp_path, metric="hd95_mm", options={"spacing_unit": "px"}, arms=("unet", "vit"), labels=("vessel",), runs=1
    )
    assert "difference to unet in mean HD95, px" in page.sections[""]
    assert page.sections[""].index("← vit better") < page.sections[""].index("unet better →")
    assert "HD95 (px)" in page.sections["scores"]


@pytest.mark.slow
def test_several_data_sets_get_a_critical_difference(tmp_path: Path) -> None:
    page = _page(
        tmp_path, datasets=("Dataset101_A", "Dataset102_B"), runs=1, num_cases=10, arms=("a", "b", "c"), baseline=None
    )
    assert (tmp_path / "figures" / "critical-difference.pdf").is_file()
    assert "data set" in page.sections["scores"]
    assert "Nemenyi" in page.sections["methods"]
    assert "Dataset102_B, Image_" in page.sections["pictures"]


def test_not_comparable_arms_support_no_claim(tmp_path: Path) -> None:
    page = _page(tmp_path, verdict_rows=("different",), runs=1, num_cases=6, arms=("unet", "b"), labels=("vessel",))
    assert "Audit: not comparable" in page.sections[""]
    assert "support no claim" in page.sections["audit"]
    assert "Nothing, because the audit finds the arms not comparable." in page.sections["answer"]
    assert "shown" not in page.attributes("class")


def test_too_many_cases_leave_those_that_arms_agree_on_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnvit.compare.report.result_tables.MAX_CASES", 10)
    page = _page(tmp_path, runs=1, arms=("a", "b"), baseline=None, folds=2)
    assert "The 10 rows with the widest spread; the other 30 are in cases.csv." in page.sections["every-case"]


def test_limits_follow_the_data() -> None:
    facts = {
        "arms": ["a", "b"], "datasets": ["D"], "cases": 300, "folds": 5, "runs": 3, "human": True, "options": Options(),
        "missed": 0, "empty": 0, "unknown": [], "devices": ["cpu"], "left_out": 0,
    }  # fmt: skip
    few = _paragraphs("limits.txt.j2", facts)
    assert not [text for text in few if "fold" in text or "observer" in text or "missed" in text]
    assert len(few) < len(_paragraphs("limits.txt.j2", facts | {"folds": 2, "missed": 3, "human": False}))


def test_the_sample_covers_every_state_of_the_audit(page: Page) -> None:
    for status in Sample().verdict_rows:
        assert f"row that is {status}" in page.sections["audit"]
