"""What may be said: the decision of both layers, its words, and the sentence that opens the report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnvit.compare.scores.metrics import NAMES, UNITS

ALPHA = 0.05
SEEDS = 3
"""Trainings per arm and fold that a headline claim takes."""


def cases_differ(
    low: ArrayLike, high: ArrayLike, effect: ArrayLike, p_holm: ArrayLike, p_friedman: ArrayLike = 0.0
) -> NDArray[np.int_]:
    """First layer: 1 or -1 where the trained models differ, the sign of the difference; 0 where that is not shown.

    The interval (low, high) of the mean and Wilcoxon after Holm, whose direction is that of `effect`, have to agree, and
    Friedman, where there is one, comes before them. NaN, for what could not be computed, shows nothing. Works on arrays,
    so that a simulation decides as `analyse` does.
    """
    low, high, effect = (np.asarray(value, float) for value in (low, high, effect))
    shown = (np.asarray(p_holm, float) < ALPHA) & (np.asarray(p_friedman, float) < ALPHA)
    return np.where(shown & (low > 0) & (effect > 0), 1, np.where(shown & (high < 0) & (effect < 0), -1, 0))


def methods_differ(cases: ArrayLike, difference: ArrayLike, p_holm: ArrayLike) -> NDArray[np.int_]:
    """Second layer: the sign where the folds' test agrees with the first layer, otherwise 0."""
    cases = np.asarray(cases, int)
    agrees = (np.asarray(p_holm, float) < ALPHA) & (np.sign(difference) == cases)
    return np.where(agrees, cases, 0)


def decide(pair: dict[str, Any], friedman: dict[str, Any], lower_is_better: bool) -> dict[str, Any]:
    """The verdict on one pair, in figures and words."""
    omnibus = friedman["p"] if friedman["arms"] > 2 else 0.0
    spread, rank_test, folds = pair["interval"], pair["wilcoxon"], pair["method_layer"]
    test = folds[folds["decides"]]
    evidence = (spread["low"], spread["high"], rank_test["rank_biserial"], rank_test["p_holm"], omnibus)
    cases = int(cases_differ(*map(_number, evidence)))
    method = int(methods_differ(cases, _number(test["difference"]), _number(test["p_holm"])))
    ahead = pair["a"] if (cases > 0) != lower_is_better else pair["b"]
    behind = pair["b"] if ahead == pair["a"] else pair["a"]
    level = "not shown"
    if cases:
        level = "models differ"
    if method:
        level = "better" if folds["n_runs"] >= SEEDS else "ahead, too few seeds"
    return {
        "level": level,
        "better": ahead if cases else None,
        "cases": {"shown": bool(cases), "text": _first_layer(pair, friedman, cases, ahead, behind)},
        "method": {"shown": level == "better", "text": _second_layer(pair, level, ahead, behind)},
    }


def _first_layer(pair: dict[str, Any], friedman: dict[str, Any], cases: int, ahead: str, behind: str) -> str:
    test = pair["wilcoxon"]
    if cases:
        return f"these trained models differ: {ahead} scores better than {behind} ({_p(test['p_holm'])} after Holm)"
    if test["p"] is None:
        return f"no difference can be claimed: {test['reason']}"
    if friedman["arms"] > 2 and (friedman["p"] is None or friedman["p"] >= ALPHA):
        return f"not shown that these trained models differ (Friedman over all arms: {_p(friedman['p'])})"
    if test["p_holm"] < ALPHA:
        why = pair["interval"]["reason"] or "the interval of the mean difference does not agree"
        return (
            f"not shown that these trained models differ: Wilcoxon says so ({_p(test['p_holm'])} after Holm), but {why}"
        )
    return f"not shown that these trained models differ ({_p(test['p_holm'])} after Holm)"


def _second_layer(pair: dict[str, Any], level: str, ahead: str, behind: str) -> str:
    folds = pair["method_layer"]
    test = folds[folds["decides"]]
    what = _evidence(folds)
    if level == "better":
        return f"{ahead} is better than {behind} as a method ({what})"
    if level == "ahead, too few seeds":
        return (
            f"{ahead} is ahead of {behind} and the folds agree ({what}); "
            f"that a method is better takes {SEEDS} trainings per fold, so it is not claimed"
        )
    if folds["reason"] or test["p"] is None:
        return f"that one method is better {_as_claim(folds['reason'] or test['reason'])}"
    if level == "models differ":
        return f"not shown that one method is better: the folds do not agree ({what}), so it may be training noise"
    if test["p_holm"] < ALPHA:
        return f"not shown that one method is better: the folds say so ({what}), but the cases do not"
    return f"not shown that one method is better ({what})"


def _as_claim(reason: str) -> str:
    return reason if reason.startswith("cannot") else f"cannot be claimed ({reason})"


def _evidence(folds: dict[str, Any]) -> str:
    """`fold-level t p = 0.012 after Holm, stricter Nadeau–Bengio p = 0.041, 5 folds, 3 trainings per fold`."""
    test, strict = folds[folds["decides"]], folds["nadeau_bengio"]
    beside = "" if test is strict or strict["p"] is None else f", stricter Nadeau–Bengio {_after_holm(strict)}"
    name = "Nadeau–Bengio t" if test is strict else "fold-level t"
    return f"{name} {_after_holm(test)}{beside}, {folds['n_folds']} folds, {_trainings(folds)}"


def _after_holm(test: dict[str, Any]) -> str:
    return _p(test["p_holm"]) + (" after Holm" if test["p_holm"] != test["p"] else "")


def _trainings(folds: dict[str, Any]) -> str:
    n = folds["n_runs"]
    return f"{n} training{'s' * (n != 1)} per fold"


def _p(p: float | None) -> str:
    if p is None:
        return "p not computable"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def headline(stats: Mapping[str, Any], audit: str | Mapping[str, Any]) -> str:
    """The answer in one sentence: effect, interval, n, and what may be claimed.

    stats: of `analyse`; its "spacing_unit" is "px" where the masks' spacing is in pixels, mm by default. audit: the verdict's
    words, or the whole audit as a dict, whose rows tell what was declared and whose notes on twins are then repeated.
    """
    told: Mapping[str, Any] = {"verdict": audit} if isinstance(audit, str) else audit
    fair = told["verdict"] != "not comparable"
    if len(stats["datasets"]) > 1:
        body = _over_datasets(stats, fair)
    else:
        ((dataset, results),) = stats["datasets"].items()
        body = _one_dataset(stats, dataset, results["metrics"].get(stats["metric"], {}).get("mean"), fair)
    before = "" if fair else "no claim, because the audit finds the arms not comparable; as measured, "
    return before + body + _reserve(told) + _twins(told.get("notes", [])) + "."


def _reserve(audit: Mapping[str, Any]) -> str:
    """The same verdict is given where something is declared and where too little is on record."""
    if audit["verdict"] != "fair with declared differences":
        return ""
    if "rows" not in audit or any(row["status"] == "declared" for row in audit["rows"]):
        return "; the audit's declared differences apply"
    return "; what the audit could not find out applies"


def _twins(notes: list[str]) -> str:
    """What the audit says about pretraining: without its twins a gain is not the architecture's."""
    about = [note.partition(":")[0].rstrip(".") for note in notes if "twin" in note.lower()]
    return f"; the audit notes: {'; '.join(about)}" if about else ""


def _one_dataset(stats: Mapping[str, Any], dataset: str, block: dict[str, Any] | None, fair: bool) -> str:
    if not block or not block["n"]:
        return f"on {dataset} nothing can be said of {NAMES[stats['metric']]}: no case has a value for every arm"
    pair = leading_pair(block, stats["baseline"], stats["lower_is_better"])
    verdict, folds = pair["verdict"], pair["method_layer"]
    a, b = pair["a"], pair["b"]
    if _measured_better(pair, stats["lower_is_better"]) == b:
        a, b = b, a
    if verdict["better"]:
        a, b = verdict["better"], pair["b"] if verdict["better"] == pair["a"] else pair["a"]
    test = folds[folds["decides"]]
    effect = _effect(stats, block, pair, a, b)
    if not fair:
        return f"{a} against {b} on {dataset}: {effect}"
    claims = {
        "better": f"{a} is better than {b} on {dataset}",
        "ahead, too few seeds": f"{a} is ahead of {b} on {dataset}, but to call it better takes {SEEDS} trainings per fold",
        "models differ": f"as trained, {a} scores better than {b} on {dataset}; that it is the better method is not shown",
        "not shown": f"it is not shown that {a} is better than {b} on {dataset}",
    }
    why = (
        f"; {_evidence(folds)}"
        if test["p"] is not None
        else f"; the folds say nothing, {folds['reason'] or test['reason']}"
    )
    return f"{claims[verdict['level']]}: {effect}{why}"


def leading_pair(block: dict[str, Any], baseline: str | None, lower_is_better: bool) -> dict[str, Any]:
    """The best arm but the baseline against it; without one, the best against the second."""
    by_mean = sorted(block["arms"], key=lambda arm: block["arms"][arm]["mean"], reverse=not lower_is_better)
    wanted = {baseline, next(arm for arm in by_mean if arm != baseline)} if baseline else set(by_mean[:2])
    return next(pair for pair in block["pairs"] if {pair["a"], pair["b"]} == wanted)


def _measured_better(pair: dict[str, Any], lower_is_better: bool) -> str:
    return str(pair["a"] if (pair["difference"] >= 0) != lower_is_better or pair["difference"] == 0 else pair["b"])


def _effect(stats: Mapping[str, Any], block: dict[str, Any], pair: dict[str, Any], a: str, b: str) -> str:
    """`mean Dice 0.812 against 0.802, a difference of +1.0 points (95% interval 0.6 to 1.4 over 300 cases)`."""
    sign = 1 if a == pair["a"] else -1
    length = UNITS[stats.get("spacing_unit", "mm")].get(stats["metric"])
    scale, unit, digits = (1.0, length, 2) if length else (100.0, "points", 3)
    means = " against ".join(f"{block['arms'][arm]['mean']:.{digits}f}" for arm in (a, b))
    text = f"mean {NAMES[stats['metric']]} {means}, a difference of {sign * scale * pair['difference']:+.2f} {unit}"
    spread, n = pair["interval"], pair["n"]
    cases = f"{n} case{'s' * (n != 1)}"
    if spread["low"] is None:
        return f"{text} over {cases}, its interval {spread['reason']}"
    low, high = sorted(sign * scale * bound for bound in (spread["low"], spread["high"]))
    return f"{text} (95% BCa interval {low:+.2f} to {high:+.2f} over {cases})"


def _over_datasets(stats: Mapping[str, Any], fair: bool) -> str:
    """By average rank, and how often the leader's verdict is `better` on a data set of its own.

    Few data sets satisfy Nemenyi's critical difference, an approximation, too soon: a test of all arms has to agree.
    """
    across = stats["across_datasets"].get(stats["metric"])
    if not across or not across["n"]:
        return f"nothing can be said of {NAMES[stats['metric']]} over the data sets: none has a value for every arm"
    first, second = across["arms"][:2]
    critical = across["critical_difference"]
    name, test = ("Friedman", across["friedman"]) if len(across["arms"]) > 2 else ("sign test", across["sign_test"])
    apart = second["average_rank"] - first["average_rank"] >= critical and _number(test["p"]) < ALPHA
    wins = sum(
        any(p["verdict"]["level"] == "better" and p["verdict"]["better"] == first["arm"] for p in block["pairs"])
        for results in stats["datasets"].values()
        if (block := results["metrics"].get(stats["metric"], {}).get("mean"))
    )
    claim = "against" if not fair else "ranks above" if apart else "is not shown to rank above"
    method = f", and is better than at least one other arm as a method on {wins} of them" if fair else ""
    return (
        f"over {across['n']} data sets {first['arm']} {claim} {second['arm']} by {NAMES[stats['metric']]} "
        f"(average ranks {first['average_rank']:.2f} and {second['average_rank']:.2f}, "
        f"{name} {_p(test['p'])}, Nemenyi critical difference {critical:.2f}){method}"
    )
