"""docs/coverage.md, written from the records."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.rendering.text import Lines, markdown
from validation.coverage.records import (
    GOALS,
    ORDER,
    Record,
    Summary,
    by_name,
    faults,
    purpose,
    summaries,
    worst,
)

INTRODUCTION = """# Coverage: which models the engine trains

`lfp-bench coverage` has written this file; do not edit it. It runs every module of torch.nn in a
small net, behind a layer and right on the data, and whole zoos of models with random weights and
inputs, unmodified, in training and evaluation mode, with `strict=True`.

- **Works** means: the forward pass is torch's to rounding, the feedback is finite and reaches the
  parameters behind the module, and where every part is linear on each side of 0, or homogeneous,
  Theorem 1 holds (LFP with epsilon 0 is -|w| dL/dw; to 1e-8 in float64, to 1e-3 for simulated
  quantisation, which torch has in float32 only).
- **Refused on purpose**: `lfp.UnsupportedOperation`, with the name of the operation. The reasons
  are in `REFUSED_ON_PURPOSE` in `validation/coverage/records.py`.
- **A fault**: refused without being on that list, wrong, or another error.
- **Not counted**: torch itself cannot run the model forwards and backwards here.

Epsilon is 1e-6, and for torch.nn also 0 and 0.1. Parameters that are all 0 are given normal values
with a standard deviation of 0.02 first: LFP never moves a weight that is 0, and torchvision's
vision transformers start with a head of zeros. Feedback / gradient is the norm of the feedback over
that of |w| dL/dw, both of all parameters together.
"""
#: Above this ratio of norms, feedback that is finite is of little use.
FAR = 1e3
#: Groups with one line for each name; in others, those that work are only named.
LISTED = ("torch.nn",)


def document(records: Sequence[Record], origins: Iterable[str] = ()) -> str:
    """Return the file's content.

    Args:
        records: of all groups.
        origins: lines on where they were made.
    """
    parts = [INTRODUCTION, markdown(summary_lines(records))]
    parts += [f"- {origin}\n" for origin in origins]
    for group in dict.fromkeys(record.group for record in records):
        parts.append(section(group, [record for record in records if record.group == group]))
    return "\n".join(parts)


def summary_lines(records: Sequence[Record]) -> Lines:
    """Return a line for every group."""
    header = ("group", "works", "of", "%", "goal", "refused on purpose", "faults", "not counted")
    return header, [_summary_line(summary, records) for summary in summaries(records)]


def _summary_line(summary: Summary, records: Sequence[Record]) -> Sequence[str]:
    names = by_name(record for record in records if record.group == summary.group)
    meant = sum(
        worst(of_name).verdict == "refused" and purpose(of_name[0]) is not None
        for of_name in names.values()
    )
    bad = sum(bool(faults(of_name)) for of_name in names.values())
    share = f"{summary.works / summary.counted:.1%}" if summary.counted else "-"
    goal = f"{GOALS[summary.group]:.0%}" if summary.group in GOALS else "-"
    idle = summary.verdicts.get("not counted", 0)
    shares = (str(summary.works), str(summary.counted), share, goal)
    return (summary.group, *shares, str(meant), str(bad), str(idle))


def section(group: str, records: Sequence[Record]) -> str:
    """Return what is told of one group."""
    names = {name: of_name for (_, name), of_name in by_name(records).items()}
    parts = [f"## {group}\n", "\n".join([*_remarks(records), ""])]
    if group in LISTED:
        working = [f"`{name}`" for name, found in names.items() if worst(found).verdict == "works"]
        parts.append(f"Works: {', '.join(working)}.\n" if working else "")
    else:
        parts.append(markdown(figure_lines(names)))
    rest = rest_lines(names)
    if rest[1]:
        parts += ["What does not work everywhere:\n", markdown(rest)]
    return "\n".join(filter(None, parts))


def _remarks(records: Sequence[Record]) -> list[str]:
    forwards = [r for r in records if "forward_equal" in r.figures]
    equal = sum(bool(record.figures["forward_equal"]) for record in forwards)
    told = [f"- {equal} of {len(forwards)} forward passes are torch's bit for bit."]
    proved = [r.figures.get("theorem_error") for r in records]
    errors = [float(error) for error in proved if error is not None]
    if errors:
        told.append(
            f"- Theorem 1 was checked {len(errors)} times; largest error {max(errors):.0e}."
        )
    far = {r.name for r in records if (r.figures.get("ratio") or 0) > FAR}
    if far:
        names = ", ".join(f"`{name}`" for name in sorted(far))
        told.append(f"- Feedback is more than {FAR:g} times the gradient for {names}.")
    return [*told, ""]


def rest_lines(names: Mapping[str, Sequence[Record]]) -> Lines:
    """Return a line for each reason for which a name does not work."""
    rows = []
    for name, records in names.items():
        reasons: dict[tuple[str, str], list[str]] = {}
        for record in records:
            if record.verdict != "works":
                used = ", ".join(filter(None, (record.mode, record.variant)))
                reasons.setdefault((record.verdict, record.reason), []).append(used)
        for (verdict, reason), uses in reasons.items():
            everywhere = len(uses) == len(records) > 1
            meant = purpose(records[0]) if verdict == "refused" else None
            told = f"on purpose: {meant} ({reason})" if meant else reason
            rows.append((name, verdict, "everywhere" if everywhere else "; ".join(uses), told))
    order = {verdict: place for place, verdict in enumerate(reversed(ORDER))}
    rows.sort(key=lambda row: order[row[1]])  # type: ignore[index]
    return ("name", "verdict", "where", "reason"), rows


def figure_lines(names: Mapping[str, Sequence[Record]]) -> Lines:
    """Return a line for each model, with what was measured in both modes."""
    header = (
        *("model", "training", "evaluation", "feedback / gradient, training", "evaluation"),
        *("tensors", "without feedback, training", "evaluation", "Theorem 1, error"),
    )
    rows = []
    for name, records in names.items():
        modes = {record.mode: record for record in reversed(records)}  # the first of each
        both = [modes.get(mode) for mode in ("training", "evaluation")]
        errors = [r.figures["theorem_error"] for r in records if "theorem_error" in r.figures]
        known = [error for error in errors if error is not None]
        rows.append(
            (
                name,
                *(record.verdict if record else "-" for record in both),
                *(_figure(record, "ratio", ".3g") for record in both),
                _figure(next(filter(None, both), None), "tensors", ".0f"),
                *(_figure(record, "without_feedback", ".0f") for record in both),
                f"{max(known):.0e}" if known else "-",
            )
        )
    return header, rows


def _figure(record: Record | None, key: str, form: str) -> str:
    value = record.figures.get(key) if record else None
    return "-" if value is None else format(value, form)
