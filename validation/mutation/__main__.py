"""The command: runs what the log does not have yet, and says what survives."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

from validation import mutation
from validation.mutation.mutants import Mutant, digest, mutants_of
from validation.mutation.session import OPTIONS, TESTS, Session
from validation.mutation.summary import Reasons, known_reasons, summary, table
from validation.mutation.swapping import ENGINE


def explained(mutants: list[Mutant], reasons: Reasons) -> list[dict[str, Any]]:
    """Return the mutants that survive for a known reason, as entries of the log."""
    lines = {(module, before) for module, before, _ in reasons}
    return [
        mutant.entry("")
        for mutant in mutants
        if (mutant.module, mutant.text().strip()) in lines
        and (mutant.module, *mutant.change()) in reasons
    ]


def results(log: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last result of every mutant of today's modules."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return {_key(e): e for e in entries if e["digest"] == digest(e["module"])}


def run(mutants: list[Mutant], log: Path, budget: float) -> None:
    """Run mutants, and append what becomes of them to the log."""
    cover = Coverage(data_file=None, source=[ENGINE], branch=False, config_file=False)
    cover.start()
    os.environ["LFP_PROFILE"] = "mutation"  # read by validation/conftest.py
    pytest.main([*OPTIONS, *TESTS], plugins=[Session(mutants, log.resolve(), cover, budget)])


def main() -> int:
    """Run what is neither killed nor explained yet, and print what survives."""
    parser = argparse.ArgumentParser(
        description=mutation.__doc__,
        prog="python -m validation.mutation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--module", default="*.py", help="only these files of lfp_core, a pattern")
    parser.add_argument("--all", action="store_true", help="also run what is explained")
    parser.add_argument(
        "--budget", type=float, default=30.0, help="seconds of tests for one mutant (default: 30)"
    )
    parser.add_argument("--log", type=Path, default=Path("results/mutation.jsonl"))
    parser.add_argument("--summary", type=Path, default=Path("results/mutation.json"))
    options = parser.parse_args()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    options.log.touch()
    paths = sorted(Path(ENGINE).glob(options.module))
    mutants = [mutant for path in paths for mutant in mutants_of(path)]
    reasons = known_reasons()
    known = {} if options.all else {_key(e): e for e in explained(mutants, reasons)}
    tried = results(options.log)
    killed = {k for k, entry in tried.items() if entry["killed_by"]}
    left = [mutant for mutant in mutants if mutant.key not in killed | known.keys()]
    left.sort(key=lambda mutant: mutant.key in tried)  # what survived before takes longest
    print(
        f"{len(mutants)} mutants: {len(killed)} killed before, {len(known)} explained", flush=True
    )
    if left:
        run(left, options.log, options.budget)
    found = results(options.log) | known
    result = summary([found[mutant.key] for mutant in mutants if mutant.key in found], reasons)
    options.summary.write_text(json.dumps(result, indent=1) + "\n")
    for each in result["survivors"]:
        print(f"{each['module']}:{each['line']}: {each['before']}  ->  {each['after']}")
        print(f"    {each['reason'] or 'NO REASON IS GIVEN'}")
    print(table(result))
    print(f"{result['killed']} of {result['mutants']} mutants killed: {result['percent']}%")
    complete = all(each["reason"] for each in result["survivors"])
    return 0 if complete and result["percent"] >= 95 else 1


def _key(entry: dict[str, Any]) -> tuple[str, str, int]:
    return entry["module"], entry["operator"], entry["occurrence"]


if __name__ == "__main__":
    sys.exit(main())
