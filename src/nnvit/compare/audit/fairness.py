"""Finds what should be equal between the arms and is not, what differs by design, and what is unknown."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnvit.compare.inputs.arms import Arm
from nnvit.compare.inputs.mask_files import some
from nnvit.compare.inputs.training_records import Fold, Run
from nnvit.compare.scores.metrics import Labels
from nnvit.errors import CompareError, did_you_mean

from .callouts import call_outs
from .rows import QUESTIONS, UNKNOWN, WRONG, Question

Scored = Mapping[Path, Mapping[str, Mapping[str, Any]]]
"""Path of a mask -> label -> its columns."""
Answers = Mapping[tuple[str, str, str], str | None]
"""(data set, run, fold) -> the answer, of one arm."""


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """The answers to one question. values: of each arm, "unknown" where no record states it.

    status: equal | by design | declared | different | unknown.
    """

    key: str
    title: str
    equal_expected: bool
    values: dict[str, str]
    status: str


@dataclass(kw_only=True)
class Audit:
    """The result of the audit, to which each question adds its row.

    rows: one per question. notes: what a reader should know. stop: what forbids the comparison. allow: keys whose difference
    is declared. core_unknown: something without which a comparison cannot be called fair is not on record.
    """

    rows: list[AuditRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    core_unknown: bool = False

    @classmethod
    def of(cls, arms: Sequence[Arm], *, allow: Sequence[str] = (), baseline: str | None = None) -> "Audit":
        """Audits the records of all arms. Raises CompareError for an unknown key in `allow`."""
        known = [question.key for question in QUESTIONS if question.equal]
        for key in allow:
            if key not in known:
                raise CompareError(
                    f"--allow {key} is no key of the audit; they are {', '.join(known)}.{did_you_mean(key, known)}"
                )
        found = cls(allow=list(dict.fromkeys(allow)))
        found._add_cases(arms)
        found._add_recorded(arms)
        for question in QUESTIONS:
            if question.answer is not None:
                found._add_answers(question, question.answer, arms)
        found.notes += [*_unknown(found, arms), *_unfinished(arms), *call_outs(arms, baseline)]
        return found

    def check_masks(self, arms: Sequence[Arm], scores: Scored, labels: Mapping[str, Labels]) -> None:
        """Adds a row on whether the masks are those that were evaluated; labels: of each data set."""
        values, every = {}, []
        for arm in arms:
            folds = [fold for run in arm.runs for fold in run.folds]
            reasons = [reason for fold in folds for reason in _changed(fold, scores, labels[fold.run.dataset])]
            known = all(fold.evaluated for fold in folds)
            values[arm.name] = f"no: {len(reasons)} found" if reasons else "yes" if known else UNKNOWN
            every += [f"{arm.name}: {reason}" for reason in reasons]
        self._judge(_question("predictions"), values, differs=bool(every), reasons=every)

    @property
    def verdict(self) -> str:
        """ "fair", "fair with declared differences" or "not comparable"."""
        status = {row.status for row in self.rows if row.equal_expected}
        if self.stop or "different" in status:
            return "not comparable"
        return "fair with declared differences" if "declared" in status or self.core_unknown else "fair"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for stats.json."""
        held = asdict(self)
        del held["core_unknown"]  # part of the verdict
        return {"verdict": self.verdict} | held

    def lines(self) -> list[str]:
        """Returns the verdict, what speaks against it and what a reader should know, for a terminal."""
        differences = [f"  {_line(row)}" for row in self.rows if row.status in ("different", "declared")]
        return [f"audit: {self.verdict}", *differences, *(f"  note: {note}" for note in self.notes)]

    def refuse(self) -> None:
        """Raises CompareError with all that differs, if something forbids the comparison."""
        if not self.stop:
            return
        stopped = "\n".join(f"- {reason}" for reason in self.stop)
        others = [f"- {_line(row)}" for row in self.rows if row.status == "different" and not _question(row.key).stops]
        beside = "\nThey also differ in the following, which would not stop the comparison:\n" + "\n".join(others)
        raise CompareError(f"these arms cannot be compared:\n{stopped}{beside if others else ''}")

    def _add_cases(self, arms: Sequence[Arm]) -> None:
        """Adds whether every arm and run has the same cases, in the same folds where the arms have folds."""
        values = {arm.name: " + ".join(dict.fromkeys(str(len(run.predictions)) for run in arm.runs)) for arm in arms}
        datasets = dict.fromkeys(run.dataset for arm in arms for run in arm.runs)
        reasons = [reason for dataset in datasets for reason in _differing_cases(arms, dataset)]
        self._judge(_question("cases"), values, differs=bool(reasons), reasons=reasons)

    def _add_recorded(self, arms: Sequence[Arm]) -> None:
        """Adds whether the trainings left any record."""
        values = {arm.name: "no" if all(fold.is_empty for fold in arm.trained) else "yes" for arm in arms}
        bare = [name for name, value in values.items() if value == "no"]
        self._judge(_question("recorded"), values, differs=bool(bare))
        if bare:
            self.notes.append(
                f"nothing is recorded about how {' and '.join(bare)} {'was' if len(bare) == 1 else 'were'} trained; "
                f"--allow recorded {'declares' if 'recorded' in self.allow else 'would declare'} that you know it was fair."
            )

    def _add_answers(self, question: Question, answer: Callable[[Fold], str | None], arms: Sequence[Arm]) -> None:
        """Adds the row of a question that every fold answers."""
        answers = {
            arm.name: {(fold.run.dataset, fold.run.name, fold.name): answer(fold) for fold in arm.trained}
            for arm in arms
        }
        values = {name: _told(held) for name, held in answers.items()}
        every = [value for held in answers.values() for value in held.values()]
        if not question.equal:
            different = len(set(values.values()) - {UNKNOWN}) > 1
            self._show(question, values, "by design" if different else "unknown" if None in every else "equal")
            return
        wrong = any(value is not None and value.startswith(WRONG) for value in every)
        differs = wrong or _differs(list(answers.values()))
        self._judge(question, values, differs=differs, reasons=question.reasons(values) if question.stops else ())
        if differs and question.details:
            self.notes += question.details({arm.name: arm.trained[0] for arm in arms})
        self.core_unknown |= question.core and None in every and not differs

    def _judge(self, question: Question, values: dict[str, str], *, differs: bool, reasons: Iterable[str] = ()) -> None:
        """Adds the row of something that must be equal.

        reasons: if it differs, they stop the comparison, unless --allow declares the difference; then they are notes.
        """
        status = "unknown" if UNKNOWN in values.values() else "equal"
        if differs and question.key in self.allow:
            status = "declared"
            self.notes += [f"declared by --allow {question.key}: {reason}" for reason in reasons]
        elif differs:
            status = "different"
            self.stop += [f"{reason} (--allow {question.key} declares it)" for reason in reasons]
        self._show(question, values, status)

    def _show(self, question: Question, values: dict[str, str], status: str) -> None:
        key, title, equal = question.key, question.title, question.equal
        self.rows.append(AuditRow(key=key, title=title, equal_expected=equal, values=values, status=status))


def _question(key: str) -> Question:
    return next(question for question in QUESTIONS if question.key == key)


def _line(row: AuditRow) -> str:
    values = "; ".join(f"{arm} {value}" for arm, value in row.values.items())
    return f"{row.status}: {row.title} ({row.key}): {values}"


# --- cases -------------------------------------------------------------------------------------------------------------


def _differing_cases(arms: Sequence[Arm], dataset: str) -> list[str]:
    reasons = [f"{arm.name} has no results on {dataset}" for arm in arms if dataset not in arm.datasets]
    runs = [(arm.name, run) for arm in arms for run in arm.runs if run.dataset == dataset]
    every = {case for _, run in runs for case in run.predictions}
    for name, run in runs:
        missing = sorted(every - run.predictions.keys())
        if missing:
            who = f"{name}, run {run.name}" if run.name else name
            shared = _shared_folds([run for _, run in runs])
            reasons.append(f"{who} lacks {some(missing)}, which other arms have{shared}")
    # runs that all arms name alike are compared one by one: repeated splits may differ by run
    by_run = _same([{run.name for of, run in runs if of == name} for name in dict(runs)])
    folds: dict[tuple[str, str], set[str]] = defaultdict(set)
    for _, run in runs:
        held = {case: fold.name for fold in run.folds if fold.name for case in fold.predictions}
        for case, fold in held.items():
            folds[run.name if by_run else "", case].add(fold)
    moved = sorted({case for (_, case), names in folds.items() if len(names) > 1})
    if moved:
        reasons.append(f"{dataset}: {some(moved)} lie in different folds of the arms: the splits are not the same")
    return reasons


def _same(sets: Sequence[set[Any]]) -> bool:
    """True if all are equal."""
    return all(one == sets[0] for one in sets)


def _shared_folds(runs: Sequence[Run]) -> str:
    sets = [{fold.name for fold in run.folds} for run in runs]
    shared = sorted(set.intersection(*sets))
    if not shared or _same(sets):
        return ""
    return (
        f"; all arms have only the fold{'s' * (len(shared) > 1)} {', '.join(shared)}: give --folds {','.join(shared)}"
    )


# --- answers of the folds ----------------------------------------------------------------------------------------------


def _differs(answers: Sequence[Answers]) -> bool:
    """True if known answers differ: fold by fold where all arms have the same folds, else by data set; likewise for runs."""
    by_fold = _same([{fold for _, _, fold in answer} for answer in answers])
    by_run = _same([{key[:2] for key in answer} for answer in answers])
    known = [
        {(dataset, run if by_run else "", fold if by_fold else "", value)
         for (dataset, run, fold), value in answer.items() if value is not None}
        for answer in answers
    ]  # fmt: skip
    if by_fold:
        told = set.union(*known)
        return len({key[:3] for key in told}) < len(told)
    # folds that not all arms have may differ in themselves, as splits do
    return any(one and other and not (one <= other or other <= one) for one in known for other in known)


def _told(answer: Answers) -> str:
    """One text where all folds agree; else the text of each fold, with the names of data sets and runs where needed."""
    texts = {key: UNKNOWN if value is None else value for key, value in answer.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    for parts in ((2,), (0,), (1,), (0, 2), (1, 2), (0, 1, 2)):
        grouped: dict[str, set[str]] = {}
        for key, text in texts.items():
            name = " ".join(f"{('', 'run ', 'fold ')[part]}{key[part]}" for part in parts if key[part])
            grouped.setdefault(name, set()).add(text)
        if all(len(group) == 1 for group in grouped.values()):
            return "; ".join(f"{name}: {next(iter(group))}" for name, group in grouped.items())
    return "; ".join(dict.fromkeys(texts.values()))


def _unknown(found: Audit, arms: Sequence[Arm]) -> list[str]:
    """Names what each arm does not record; arms without any record have a note of their own."""
    notes = []
    for arm in arms:
        titles = [row.title for row in found.rows if row.equal_expected and UNKNOWN in row.values.get(arm.name, "")]
        if titles and not all(fold.is_empty for fold in arm.trained):
            notes.append(f"{arm.name} does not record: {', '.join(titles)}.")
    return notes


def _unfinished(arms: Sequence[Arm]) -> list[str]:
    notes = []
    for arm in arms:
        for run in arm.runs:
            if run.unfinished:
                notes.append(f"{run.path}: fold {', '.join(run.unfinished)} holds no validation masks and is left out.")
        stopped = [fold.name for fold in arm.trained if _stopped(fold)]
        if stopped:
            notes.append(f"{arm.name}: the training of fold {', '.join(stopped)} is not recorded as finished.")
    return notes


def _stopped(fold: Fold) -> bool:
    if "exit" in fold.manifest:
        return fold.manifest["exit"] != "finished"
    return fold.log.epochs is not None and not fold.log.finished


# --- masks -------------------------------------------------------------------------------------------------------------


def _changed(fold: Fold, scores: Scored, labels: Labels) -> list[str]:
    """Reasons to doubt that the masks are those that nnU-Net evaluated at the end of this training."""
    predictions, evaluated, reasons = fold.predictions, fold.evaluated, []
    wanted = fold.log.val_cases or fold.recorded("cases", "val")
    if wanted and fold.name not in ("", "all") and len(predictions) != wanted:
        reasons.append(
            f"{fold.folder}/validation holds {len(predictions)} masks, the fold validates {wanted} cases: files are "
            "missing or left over from an earlier training"
        )
    debug, start = fold.folder / "debug.json", fold.log.start
    # the log's clock may be that of another machine
    started = min(start.timestamp(), debug.stat().st_mtime) if start is not None and debug.is_file() else 0.0
    for case, path in predictions.items():
        if evaluated and case not in evaluated:
            reasons.append(f"{path} is not in summary.json: it is left over from an earlier training, or came later")
        elif evaluated and not _as_evaluated(scores.get(path, {}), evaluated[case]["metrics"], labels):
            reasons.append(
                f"{path} is not the mask that summary.json describes: one of the two is stale; run --val again"
            )
        elif path.stat().st_mtime < started:
            reasons.append(f"{path} is older than the start of this training: it is left over from an earlier one")
    gone = sorted(evaluated.keys() - predictions.keys())
    return reasons + ([f"{fold.folder} was evaluated with {some(gone)}, whose masks are gone"] if gone else [])


def _as_evaluated(
    scored: Mapping[str, Mapping[str, Any]], evaluated: dict[str, dict[str, Any]], labels: Labels
) -> bool:
    """True if all voxel counts are those of summary.json; if that has another reference, only those of the mask count."""
    entries = {tuple(sorted(map(int, re.findall(r"\d+", key)))): entry for key, entry in evaluated.items()}
    for name, columns in scored.items():
        entry = entries.get(tuple(sorted(labels.values[name])))
        if entry is None or (labels.ignore is not None and entry["n_ref"] != columns["n_ref"]):
            continue  # another reference ignores other voxels
        if entry["n_pred"] != columns["n_pred"]:
            return False
        if entry["n_ref"] == columns["n_ref"] and entry["TP"] != columns["n_both"]:
            return False
    return True
