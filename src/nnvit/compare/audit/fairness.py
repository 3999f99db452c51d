"""Was it a fair fight? What should be equal between the arms, what differs by design, and what nobody wrote down."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnvit.compare.inputs.arms import Arm
from nnvit.compare.inputs.mask_files import case_of, some
from nnvit.compare.inputs.training_records import Records, records_of
from nnvit.compare.scores.metrics import Labels
from nnvit.errors import CompareError, did_you_mean

from .callouts import call_outs
from .rows import FACTS, Fact, augmentation_parts

Scored = dict[Path, dict[str, dict[str, Any]]]
"""Path of a mask -> label -> its columns."""
UNKNOWN = "unknown"
STOPPING = {"cases", "splits", "labels", "held_out", "predictions"}
"""Where these differ, a number would be wrong rather than unfair: nothing is compared unless --allow declares it."""
OTHER_KEYS = {
    "cases": "cases",
    "predictions": "masks are those that were evaluated",
    "recorded": "training is on record",
}
"""Rows that are not read off the records of a fold."""
TITLES = OTHER_KEYS | {fact.key: fact.title for fact in FACTS}
ALLOWED = tuple(OTHER_KEYS) + tuple(fact.key for fact in FACTS if fact.equal)


@dataclass(frozen=True, kw_only=True)
class Row:
    """values: of each arm, "unknown" where no record tells. status: equal | by design | declared | different | unknown."""

    key: str
    title: str
    equal_expected: bool
    values: dict[str, str]
    status: str


@dataclass
class Audit:
    """rows: one per thing that was asked. notes: what a reader should know. stop: what forbids the comparison."""

    allow: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    _core_unknown: bool = False

    @property
    def verdict(self) -> str:
        """ "fair", "fair with declared differences" or "not comparable"."""
        status = {row.status for row in self.rows if row.equal_expected}
        if self.stop or "different" in status:
            return "not comparable"
        return "fair with declared differences" if "declared" in status or self._core_unknown else "fair"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "verdict": self.verdict,
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "stop": list(self.stop),
            "allow": list(self.allow),
        }

    def lines(self) -> list[str]:
        """The verdict, what speaks against it and what a reader should know, for a terminal."""
        notes = [f"  note: {note}" for note in self.notes]
        return [f"audit: {self.verdict}", *(f"  {line}" for line in self._differences()), *notes]

    def refuse(self) -> None:
        """Raises CompareError where something forbids the comparison, with all that differs."""
        if not self.stop:
            return
        stopped = "\n".join(f"- {reason}" for reason in self.stop)
        others = [line for line in self._differences() if line.startswith("different") and not self._stops(line)]
        beside = "\nThey differ besides, which would not stop the comparison:\n" + "\n".join(
            f"- {line}" for line in others
        )
        raise CompareError(f"these arms cannot be compared:\n{stopped}{beside if others else ''}")

    def _differences(self) -> list[str]:
        return [
            f"{row.status}: {row.title} ({row.key}): "
            + "; ".join(f"{arm} {value}" for arm, value in row.values.items())
            for row in self.rows
            if row.status in ("different", "declared")
        ]

    @staticmethod
    def _stops(line: str) -> bool:
        return any(f" ({key}): " in line for key in STOPPING)

    def add(self, key: str, values: dict[str, str], *, differs: bool, reasons: Iterable[str] = ()) -> None:
        """A row of a thing that must be equal; its reasons stop the comparison unless --allow declares the difference."""
        status = ("declared" if key in self.allow else "different") if differs else "equal"
        if not differs and UNKNOWN in values.values():
            status = "unknown"
        self.rows.append(Row(key=key, title=TITLES[key], equal_expected=True, values=values, status=status))
        if status == "different":
            self.stop += [f"{reason} (--allow {key} declares it)" for reason in reasons]
        elif status == "declared":
            self.notes += [f"declared by --allow {key}: {reason}" for reason in reasons]


def audit(arms: Sequence[Arm], *, allow: Sequence[str] = (), baseline: str | None = None) -> Audit:
    """Reads the records of all arms. Raises CompareError for a key of `allow` that is none."""
    for key in allow:
        if key not in ALLOWED:
            raise CompareError(
                f"--allow {key} is no key of the audit; they are {', '.join(ALLOWED)}.{did_you_mean(key, ALLOWED)}"
            )
    found = Audit(allow=tuple(dict.fromkeys(allow)))
    records = {arm.name: [record for run in arm.runs for record in records_of(run)] for arm in arms}
    _add_cases(found, arms)
    _add_recorded(found, records)
    for fact in FACTS:
        _add_fact(found, fact, records)
    _note_unknown(found, records)
    _note_unfinished(found, arms, records)
    found.notes += call_outs(arms, records, baseline)
    return found


def check_masks(found: Audit, arms: Sequence[Arm], scores: Scored, labels: dict[str, Labels]) -> None:
    """Adds whether the masks are those that were evaluated; labels: of each data set."""
    values, every = {}, []
    for arm in arms:
        records = [Records(run, fold) for run in arm.runs for fold in run.folds]
        reasons = [reason for record in records for reason in _changed(record, scores, labels[record.run.dataset])]
        known = all(record.summary for record in records)
        values[arm.name] = f"no: {len(reasons)} found" if reasons else "yes" if known else UNKNOWN
        every += [f"{arm.name}: {reason}" for reason in reasons]
    found.add("predictions", values, differs=bool(every), reasons=every)


# --- cases -------------------------------------------------------------------------------------------------------------


def _add_cases(found: Audit, arms: Sequence[Arm]) -> None:
    """The same cases in every arm and run, in the same folds where the arms have folds."""
    values, reasons = {}, []
    for arm in arms:
        counts = [len(run.predictions()) for run in arm.runs]
        values[arm.name] = " + ".join(str(count) for count in dict.fromkeys(counts))
    for dataset in dict.fromkeys(run.dataset for arm in arms for run in arm.runs):
        reasons += _differing_cases(arms, dataset)
    found.add("cases", values, differs=bool(reasons), reasons=reasons)


def _differing_cases(arms: Sequence[Arm], dataset: str) -> list[str]:
    runs = {(arm.name, run.name): run for arm in arms for run in arm.runs if run.dataset == dataset}
    absent = [arm.name for arm in arms if dataset not in arm.datasets]
    reasons = [f"{name} has no results on {dataset}" for name in absent]
    by_run = _same_runs([{run for arm, run in runs if arm == name} for name in dict.fromkeys(arm for arm, _ in runs)])
    held = {who: {case: fold.name for fold in run.folds for case in fold.predictions} for who, run in runs.items()}
    every = {case for cases in held.values() for case in cases}
    for (arm, run), cases in held.items():
        who = f"{arm}, run {run}" if run else arm
        missing = sorted(every - cases.keys())
        if missing:
            reasons.append(f"{who} lacks {some(missing)}, which other arms have{_shared_folds(runs.values())}")
    folds: dict[tuple[str, str], set[str]] = {}
    for (_, run), cases in held.items():
        for case, fold in cases.items():
            folds.setdefault((run if by_run else "", case), set()).update([fold] if fold else [])
    moved = sorted({case for (_, case), names in folds.items() if len(names) > 1})
    if moved:
        reasons.append(f"{dataset}: {some(moved)} lie in different folds of the arms: the splits are not the same")
    return reasons


def _same_runs(names: Sequence[set[Any]]) -> bool:
    """Whether runs are compared with those of their name: repeated cross-validation may have another split in each run."""
    return all(of_arm == names[0] for of_arm in names)


def _shared_folds(runs: Iterable[Any]) -> str:
    sets = [{fold.name for fold in run.folds} for run in runs]
    shared = sorted(set.intersection(*sets))
    return (
        f"; all arms have the folds {', '.join(shared)}: --folds" if shared and any(s != sets[0] for s in sets) else ""
    )


def _add_recorded(found: Audit, records: dict[str, list[Records]]) -> None:
    values = {
        name: "yes" if any(record.configuration or record.manifest or record.debug for record in listed) else "no"
        for name, listed in records.items()
    }
    found.add("recorded", values, differs="no" in values.values())
    bare = [name for name, value in values.items() if value == "no"]
    if bare:
        declares = "declares" if "recorded" in found.allow else "would declare"
        found.notes.append(
            f"nothing is recorded about how {' and '.join(bare)} {'was' if len(bare) == 1 else 'were'} trained; --allow recorded "
            f"{declares} that you know it was fair."
        )


# --- facts -------------------------------------------------------------------------------------------------------------


def _add_fact(found: Audit, fact: Fact, records: dict[str, list[Records]]) -> None:
    answers = {
        name: {(r.run.dataset, r.run.name, r.fold.name): fact.of(r) for r in listed} for name, listed in records.items()
    }
    values = {name: _told(answer) for name, answer in answers.items()}
    unknown = any(value is None for answer in answers.values() for value in answer.values())
    if not fact.equal:
        known = {value for value in values.values() if value != UNKNOWN}
        status = "by design" if len(known) > 1 else "unknown" if unknown else "equal"
        found.rows.append(Row(key=fact.key, title=fact.title, equal_expected=False, values=values, status=status))
        return
    differs = _differs(answers) or (fact.key == "held_out" and any("no:" in value for value in values.values()))
    reasons = _reasons(fact, values, records) if differs and fact.key in STOPPING else ()
    found.add(fact.key, values, differs=differs, reasons=reasons)
    if differs and fact.key == "augmentation":
        found.notes += _differing_transforms(records)
    if fact.core and unknown and not differs:
        found._core_unknown = True


def _reasons(fact: Fact, values: dict[str, str], records: dict[str, list[Records]]) -> list[str]:
    if fact.key == "held_out":
        return [
            f"{name} is validated on cases that it was trained on ({value.removeprefix('no: ')}): its Dice says nothing"
            for name, value in values.items()
            if "no:" in value
        ]
    listed = "; ".join(f"{name} has {value}" for name, value in values.items())
    return [f"the arms differ in their {fact.title}: {listed}"]


def _differs(answers: dict[str, dict[tuple[str, str, str], str | None]]) -> bool:
    """Whether known answers differ; fold by fold where all arms have the same folds, else by data set; run by run likewise."""
    folds = [{key[2] for key in answer} for answer in answers.values()]
    by_fold = all(names == folds[0] for names in folds)
    by_run = _same_runs([{key[:2] for key in answer} for answer in answers.values()])
    groups: dict[tuple[str, ...], set[str]] = {}
    for answer in answers.values():
        for (dataset, run, fold), value in answer.items():
            if value is not None:
                groups.setdefault((dataset, run if by_run else "", fold), set()).add(value)
    if by_fold:
        return any(len(values) > 1 for values in groups.values())
    per_arm = [
        {(key[0], key[1] if by_run else "", value) for key, value in answer.items() if value is not None}
        for answer in answers.values()
    ]  # folds that not all arms have may differ in themselves, as splits do
    known = [values for values in per_arm if values]
    return any(not (one <= other or other <= one) for one in known for other in known)


def _told(answer: dict[tuple[str, str, str], str | None]) -> str:
    """One text where all folds agree; else each fold's, those of several data sets and runs with their names."""
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


def _differing_transforms(records: dict[str, list[Records]]) -> list[str]:
    parts = {name: augmentation_parts(listed[0]) or [] for name, listed in records.items() if listed}
    shared = set.intersection(*map(set, parts.values()))
    return [
        f"augmentation that only {name} has: {'; '.join(part for part in own if part not in shared)}"
        for name, own in parts.items()
        if set(own) - shared
    ]


def _note_unknown(found: Audit, records: dict[str, list[Records]]) -> None:
    for name, listed in records.items():
        if not any(record.configuration or record.manifest or record.debug for record in listed):
            continue  # nothing at all is recorded, which was said
        keys = [row.title for row in found.rows if row.equal_expected and UNKNOWN in row.values.get(name, "")]
        if keys:
            found.notes.append(f"{name} does not record: {', '.join(keys)}.")


def _note_unfinished(found: Audit, arms: Sequence[Arm], records: dict[str, list[Records]]) -> None:
    for arm in arms:
        for run in arm.runs:
            if run.unfinished:
                found.notes.append(
                    f"{run.path}: fold {', '.join(run.unfinished)} holds no validation masks and is left out."
                )
        stopped = [record.fold.name for record in records[arm.name] if _stopped(record)]
        if stopped:
            found.notes.append(f"{arm.name}: the training of fold {', '.join(stopped)} is not recorded as finished.")


def _stopped(record: Records) -> bool:
    if "exit" in record.manifest:
        return record.manifest["exit"] != "finished"
    return record.log.epochs is not None and not record.log.finished


# --- masks -------------------------------------------------------------------------------------------------------------


def _changed(record: Records, scores: Scored, labels: Labels) -> list[str]:
    """What speaks against the masks being those that nnU-Net evaluated at the end of this training."""
    predictions, reasons = record.fold.predictions, []
    wanted = record.log.val_cases or record.manifest.get("cases", {}).get("val")
    if wanted and record.fold.name not in ("", "all") and len(predictions) != wanted:
        reasons.append(
            f"{record.fold.folder}/validation holds {len(predictions)} masks, the fold validates {wanted} cases: files are "
            "missing or left over from an earlier training"
        )
    evaluated = {_case(entry): entry["metrics"] for entry in record.summary.get("metric_per_case", ())}
    started = _started(record)
    for case, path in predictions.items():
        older = path.stat().st_mtime < started
        if evaluated and case not in evaluated:
            reasons.append(f"{path} is not in summary.json: it is left over from an earlier training, or came later")
        elif evaluated and not _as_evaluated(scores.get(path, {}), evaluated[case], labels):
            reasons.append(
                f"{path} is not the mask that summary.json tells of: one of the two is stale; run --val again"
            )
        elif older:
            reasons.append(f"{path} is older than the start of this training: it is left over from an earlier one")
    gone = sorted(evaluated.keys() - predictions.keys())
    return reasons + ([f"{record.fold.folder} was evaluated with {some(gone)}, whose masks are gone"] if gone else [])


def _started(record: Records) -> float:
    """When the training began: by its log, whose clock may be another's, and by the file that it wrote first; the earlier."""
    debug, start = record.fold.folder / "debug.json", record.log.start
    if start is None or not debug.is_file():
        return 0.0
    return min(start.timestamp(), debug.stat().st_mtime)


def _case(entry: dict[str, Any]) -> str:
    path = Path(str(entry["prediction_file"]).replace("\\", "/"))
    return case_of(path) or path.name


def _as_evaluated(scored: dict[str, dict[str, Any]], evaluated: dict[str, dict[str, Any]], labels: Labels) -> bool:
    """Whether the voxel counts of all labels are those of summary.json; against another reference, of the mask alone."""
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
