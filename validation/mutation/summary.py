"""What mutation testing has found: the counts, and the survivors with the reasons for them."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

REASONS = Path(__file__).with_name("survivors.yaml")
Reasons = dict[tuple[str, str, str], str]


def summary(entries: list[dict[str, Any]], reasons: Reasons) -> dict[str, Any]:
    """Return the counts by module, and the survivors with the reasons that are known."""
    survivors = [
        entry | {"reason": reasons.get((entry["module"], entry["before"], entry["after"]), "")}
        for entry in entries
        if not entry["killed_by"]
    ]
    total = Counter(entry["module"] for entry in entries)
    alive = Counter(entry["module"] for entry in survivors)
    equal = Counter(entry["module"] for entry in survivors if entry["reason"])

    def counts(mutants: int, surviving: int, explained: int) -> dict[str, Any]:
        killed = mutants - surviving
        return {
            "mutants": mutants,
            "killed": killed,
            "explained": explained,
            "percent": round(100 * killed / max(mutants, 1), 1),
            "percent_of_unexplained": round(100 * killed / max(mutants - explained, 1), 1),
        }

    return {
        **counts(len(entries), len(survivors), sum(equal.values())),
        "modules": {m: counts(n, alive[m], equal[m]) for m, n in sorted(total.items())},
        "survivors": survivors,
    }


def table(result: dict[str, Any]) -> str:
    """Return the counts of a summary by module, in Markdown."""
    rows = ["| module | mutants | killed | equivalent | of all | of all that differ |"]
    rows.append("| --- | --: | --: | --: | --: | --: |")
    for name, each in [*result["modules"].items(), ("all", result)]:
        rows.append(
            f"| {Path(name).stem} | {each['mutants']} | {each['killed']} | {each['explained']} "
            f"| {each['percent']}% | {each['percent_of_unexplained']}% |"
        )
    return "\n".join(rows) + "\n"


def known_reasons() -> Reasons:
    """Return why mutants survive, by module and the line before and after."""
    entries = yaml.safe_load(REASONS.read_text()) or []
    return {(e["module"], e["before"], e["after"]): e["reason"] for e in entries}
