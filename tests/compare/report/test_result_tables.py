"""Tables for a paper."""

from nnvit.compare.report.result_tables import _escape, _latex_table


def test_every_sign_that_latex_reads_is_escaped() -> None:
    assert _escape("a_b & 5% of {x} #1 $ ^ ~ \\") == (
        r"a\_b \& 5\% of \{x\} \#1 \$ \textasciicircum{} \textasciitilde{} \textbackslash{}"
    )
    assert _escape("−0.5 to 1 × 10³\nnext") == r"$-$0.5 to 1 $\times$ 10$^3$ next"


def test_a_table_has_rules_a_caption_and_every_row() -> None:
    lines = _latex_table(
        ["arm", "n"], [["a_b", "3"], ["c", "4"]], caption="100%", label="tab:x", align="lr"
    ).splitlines()
    assert r"\begin{tabular}{@{}lr@{}}" in lines
    assert [line for line in lines if line.endswith(r"\\")] == [r"arm & n \\", r"a\_b & 3 \\", r"c & 4 \\"]
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert r"\caption{100\%}" in lines
