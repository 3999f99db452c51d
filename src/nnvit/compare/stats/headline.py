"""The sentence that opens the report: effect, interval, n, and what may be claimed."""

from nnvit.compare.audit.fairness import Audit

from .analysis import Block, Comparison
from .paired_tests import p_text
from .verdict import ALPHA, SEEDS, ArmPair


def headline(comparison: Comparison, audit: Audit) -> str:
    """Returns the answer in one sentence, with the audit's reserve and its notes on missing random-init twins."""
    fair = audit.verdict != "not comparable"
    body = (_over_datasets if len(comparison.datasets) > 1 else _one_dataset)(comparison, fair)
    before = "" if fair else "no claim, because the audit finds the arms not comparable; as measured, "
    return before + body + _reserve(audit) + _twins(audit) + "."


def _reserve(audit: Audit) -> str:
    """One verdict is given both where a difference is declared and where a record is missing."""
    if audit.verdict != "fair with declared differences":
        return ""
    if any(row.status == "declared" for row in audit.rows):
        return "; the audit's declared differences apply"
    return "; what the audit could not find out applies"


def _twins(audit: Audit) -> str:
    """The audit's notes on pretraining: without random-init twins, a gain is not the architecture's."""
    about = [note.partition(":")[0].rstrip(".") for note in audit.notes if "twin" in note.lower()]
    return f"; the audit notes: {'; '.join(about)}" if about else ""


def _one_dataset(comparison: Comparison, fair: bool) -> str:
    (dataset,) = comparison.datasets
    block = comparison.main_block(dataset)
    if not block.n:
        return f"on {dataset} nothing can be said of {comparison.main.name}: no case has a value for every arm"
    pair = _leading_pair(block, comparison.baseline)
    a, b = _in_order(pair, block.lower_is_better)
    effect = _effect(comparison, block, pair, a, b)
    if not fair:
        return f"{a} against {b} on {dataset}: {effect}"
    claims = {
        "better": f"{a} is better than {b} on {dataset}",
        "ahead, too few seeds": f"{a} is ahead of {b} on {dataset}, but to call it better takes {SEEDS} trainings per fold",
        "models differ": f"as trained, {a} scores better than {b} on {dataset}; that it is the better method is not shown",
        "not shown": f"it is not shown that {a} is better than {b} on {dataset}",
    }
    folds = pair.method_layer
    why = f"nothing can be said about the methods: {folds.hindrance}" if folds.hindrance else folds.evidence
    return f"{claims[pair.verdict.level]}: {effect}; {why}"


def _leading_pair(block: Block, baseline: str | None) -> ArmPair:
    """The best arm but the baseline against it; without one, the best against the second."""
    by_mean = sorted(block.arms, key=lambda arm: block.arms[arm].mean or 0.0, reverse=not block.lower_is_better)
    wanted = {baseline, next(arm for arm in by_mean if arm != baseline)} if baseline else set(by_mean[:2])
    return next(pair for pair in block.pairs if {pair.a, pair.b} == wanted)


def _in_order(pair: ArmPair, lower_is_better: bool) -> tuple[str, str]:
    """The arm that is shown or, failing that, measured to be better, and the other one."""
    first_ahead = (pair.difference >= 0) != lower_is_better or pair.difference == 0
    ahead = pair.verdict.better or (pair.a if first_ahead else pair.b)
    return (pair.a, pair.b) if ahead == pair.a else (pair.b, pair.a)


def _effect(comparison: Comparison, block: Block, pair: ArmPair, a: str, b: str) -> str:
    """`mean Dice 0.812 against 0.802, a difference of +1.0 points (95% interval 0.6 to 1.4 over 300 cases)`."""
    metric = comparison.main
    scale, unit = metric.scale_in(comparison.spacing_unit)
    sign, digits = 1 if a == pair.a else -1, metric.digits if metric.unit else 3
    means = " against ".join(f"{block.arms[arm].mean:.{digits}f}" for arm in (a, b))
    text = f"mean {metric.name} {means}, a difference of {sign * scale * pair.difference:+.2f} {unit}"
    spread, n = pair.interval, pair.n
    cases = f"{n} case{'s' * (n != 1)}"
    if spread.low is None or spread.high is None:
        return f"{text} over {cases}, its interval {spread.reason}"
    low, high = sorted(sign * scale * bound for bound in (spread.low, spread.high))
    return f"{text} (95% BCa interval {low:+.2f} to {high:+.2f} over {cases})"


def _over_datasets(comparison: Comparison, fair: bool) -> str:
    """The ranking by average rank, and how often the leader's verdict is `better` on a data set of its own.

    With few data sets, average ranks exceed Nemenyi's critical difference, an approximation, too early: a test of all arms
    has to agree.
    """
    name = comparison.main.name
    across = (comparison.across_datasets or {}).get(comparison.metric)
    if not across or not across.n:
        return f"nothing can be said of {name} over the data sets: none has a value for every arm"
    first, second = across.arms[:2]
    critical = across.critical_difference
    test, p = ("Friedman", across.friedman.p) if len(across.arms) > 2 else ("sign test", across.sign_test.p)
    apart = second.average_rank - first.average_rank >= critical and p is not None and p < ALPHA
    blocks = [comparison.main_block(dataset) for dataset in comparison.datasets]
    wins = sum(
        any(p.verdict.level == "better" and p.verdict.better == first.arm for p in block.pairs) for block in blocks
    )
    claim = "against" if not fair else "ranks above" if apart else "is not shown to rank above"
    method = f", and is better than at least one other arm as a method on {wins} of them" if fair else ""
    return (
        f"over {across.n} data sets {first.arm} {claim} {second.arm} by {name} "
        f"(average ranks {first.average_rank:.2f} and {second.average_rank:.2f}, "
        f"{test} {p_text(p)}, Nemenyi critical difference {critical:.2f}){method}"
    )
