"""Runs the tests of every mutant in a process of its own, where pytest would run all tests."""

import hashlib
import json
import math
import os
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import FunctionType, MappingProxyType

import hypothesis
import pytest
from _pytest.runner import runtestprotocol
from coverage import Coverage

from baselines.machine import usable_cpus
from validation.mutation.mutants import Mutant, digest
from validation.mutation.swapping import functions_of_engine, import_again, swap

#: The tests of the engine.
TESTS = [
    *(
        f"validation/engine/test_{name}.py"
        for name in (
            *("attention", "compile", "compiled_writes", "composition", "coverage"),
            *("dead_parameters", "engine", "kernels", "kinds", "never_silent", "normalisation"),
            *("oracle", "overwriting", "pooling", "precision", "properties"),
            *("recurrent_spellings", "relatives", "rewards", "reward_examples", "rules", "shares"),
            *("spellings", "spiking"),
            *("theorem1", "torch_private", "treatments"),
        )
    ),
    *(f"tests/test_{name}.py" for name in ("bad_input", "memory", "models")),
]
#: For what runs at import, those of them that are collected quickly.
TESTS_OF_TABLES = [
    f"validation/engine/test_{name}.py"
    for name in (
        *("torch_private", "rules", "shares", "theorem1", "engine", "pooling", "rewards"),
        "treatments",
    )
]
OPTIONS = ["-s", "-q", "--tb=native", "-p", "no:cacheprovider"]
#: What this program imports before pytest starts, hypothesis among it, cannot be rewritten.
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
EXAMPLES = 25  # of a hypothesis test
NEAR = 6  # lines
LIMIT = 120  # seconds of computation after which a mutant that does not end counts as killed
TROUBLE = 70  # the exit status of a worker that failed by itself
MEMORY = 16 * 2**30  # bytes that a mutant may address


def first_failure(items: Sequence[pytest.Item]) -> str:
    """Run tests until one fails; return its name, or nothing."""
    for item, following in zip_longest(items, items[1:]):
        reports = runtestprotocol(item, log=False, nextitem=following)
        if any(report.failed for report in reports):
            return item.nodeid
    return ""


class Quickest:
    """A plugin that leaves of a collection what fits in the budget, the fastest first."""

    def __init__(self, seconds: dict[str, float], budget: float) -> None:
        self.seconds, self.budget = seconds, budget
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort, and cut off."""
        items[:] = within_budget(items, self.seconds, self.budget)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which test failed."""
        if report.failed:
            self.failed = self.failed or report.nodeid


def within_budget(
    items: Sequence[pytest.Item],
    seconds: dict[str, float],
    budget: float,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> list[pytest.Item]:
    """Return as many of the tests as fit in the budget: the fastest first, over their weights.

    The n-th case of a test function counts n times as long as it takes, so that other functions
    get their turn before.
    """

    def rank(item: pytest.Item) -> float:
        return seconds.get(item.nodeid, math.inf) / weights.get(item.nodeid, 1.0)

    cases: Counter[str] = Counter()
    ranked = []
    for item in sorted(items, key=rank):
        function = item.nodeid.partition("[")[0]
        cases[function] += 1
        ranked.append((cases[function] * rank(item), item))
    chosen, total = [], 0.0
    for _, item in sorted(ranked, key=lambda pair: pair[0]):
        total += seconds.get(item.nodeid, math.inf)
        if total > budget:
            break
        chosen.append(item)
    return chosen


def with_few_examples(items: Sequence[pytest.Item]) -> None:
    """Let hypothesis draw a few examples for every test: what is wrong, most examples show."""
    for item in items:
        function = getattr(item, "obj", None)
        settings = getattr(function, "_hypothesis_internal_use_settings", None)
        if function is not None and settings is not None:
            function._hypothesis_internal_use_settings = hypothesis.settings(
                settings, max_examples=min(settings.max_examples, EXAMPLES)
            )


def silenced() -> None:
    """Send what the tests print nowhere, and bound the memory that they use."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def bounded() -> None:
    """End this process after its share of computation, or if it waits for something for long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(5 * LIMIT)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + LIMIT, used + LIMIT + 10))


def _digest_with(test: str) -> str:
    """Return what tells a test, and the engine and what else it may import, from other times."""
    folders = ("lfp_core", "baselines", "validation")
    paths = sorted(
        path
        for folder in folders
        for path in Path(folder).rglob("*.py")
        if path.parent.name != "mutation" and not path.name.startswith("test_")
    )
    digests = [digest(str(path)) for path in (*paths, Path(test))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


@dataclass
class Measured:
    """What the tests do without a change: which lines each executes, and how long it takes."""

    seconds: dict[str, float]
    tests_of: dict[tuple[str, int], set[str]]
    at_import: set[tuple[str, int]]

    def weights(self, place: tuple[str, int], tests: set[str]) -> dict[str, float]:
        """Return how much tests of a line tell about it: as few others run the lines near it.

        Nearly all tests run a condition that most find false. Those that go on to the lines below
        it are the ones that notice when it changes.
        """
        module, line = place
        weights: defaultdict[str, float] = defaultdict(float)
        for near in range(line - NEAR, line + NEAR + 1):
            found = self.tests_of.get((module, near), set()) & tests
            for test in found:
                weights[test] += 1 / len(found)
        return weights


class Session:
    """A plugin that runs mutants where pytest would run the tests that it collected."""

    def __init__(self, mutants: list[Mutant], log: Path, cover: Coverage, budget: float) -> None:
        self.mutants, self.log, self.cover, self.budget = mutants, log, cover, budget
        #: By module and the line before and after, which test failed when this was tried before.
        self.killers = {
            (entry["module"], entry["before"], entry["after"]): entry["killed_by"]
            for entry in map(json.loads, log.read_text().splitlines())
        }
        self.workers: dict[int, Mutant] = {}
        self.functions: list[FunctionType] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure the tests, then try each mutant in a process of its own."""
        items = list(session.items)
        with_few_examples(items)
        start = time.monotonic()
        measured = self.measure(items)
        print(
            f"{len(measured.seconds)} of {len(items)} tests pass without a change; measured in "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
        self.functions = functions_of_engine()
        for done, mutant in enumerate(self.mutants):
            while len(self.workers) >= usable_cpus():
                self.wait()
            pid = os.fork()
            if pid == 0:
                self.attempt(mutant, items, measured)
            self.workers[pid] = mutant
            if done % 50 == 0:
                print(f"{done} of {len(self.mutants)} mutants", flush=True)
        while self.workers:
            self.wait()
        return True

    def wait(self) -> None:
        """Wait for a worker; one that did not end by itself has killed its mutant."""
        pid, status = os.waitpid(-1, 0)
        mutant = self.workers.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if code == TROUBLE:
            raise RuntimeError(f"mutation testing itself failed on {mutant}")
        if code != 0:
            self.record(mutant, f"ended with {code}")

    def record(self, mutant: Mutant, killed_by: str) -> None:
        """Append a result to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(mutant.entry(killed_by)) + "\n")

    def attempt(self, mutant: Mutant, items: list[pytest.Item], measured: Measured) -> None:
        """Run the tests of a mutant, in a process of its own."""
        silenced()
        bounded()
        try:
            killed_by = self.killer(mutant, items, measured)
        except SyntaxError as error:  # a mutant that cannot even be compiled
            killed_by = f"{type(error).__name__}: {error}"
        except Exception:  # of this program, which tells nothing of the mutant
            os._exit(TROUBLE)
        self.record(mutant, killed_by)
        os._exit(0)

    def killer(self, mutant: Mutant, items: list[pytest.Item], measured: Measured) -> str:
        """Return the name of the test that fails, or nothing."""
        path, source = Path(mutant.module).resolve(), mutant.source()
        name = mutant.module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        place = (mutant.module, mutant.line)
        tests = measured.tests_of.get(place, set())
        if (tests or place not in measured.at_import) and swap(
            sys.modules[name], source, self.functions
        ):
            before = self.killers.get((mutant.module, *mutant.change()))
            found = first_failure([item for item in items if item.nodeid == before])
            if found:
                return found
            compiled = [item for item in items if item.get_closest_marker("compiled")]
            chosen = [item for item in items if item.nodeid in tests]
            if not tests or "is_compiling" in mutant.text():  # traced by torch.compile, and not run
                found = first_failure(within_budget(compiled, measured.seconds, 2 * self.budget))
                if found:
                    return found
            weights = measured.weights(place, tests)
            return first_failure(within_budget(chosen, measured.seconds, self.budget, weights))
        import_again(name, str(path), source)
        quickest = Quickest(measured.seconds, self.budget)
        code = pytest.main(["-x", *OPTIONS, *TESTS_OF_TABLES], plugins=[quickest])
        return quickest.failed or (f"pytest ended with {code}" if code else "")

    def measure(self, items: list[pytest.Item]) -> Measured:
        """Run all tests once, on all cores, and note what they execute; or read what is noted."""
        self.cover.stop()
        measured = Measured({}, {}, set(self._lines()))
        of_files: defaultdict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            of_files[item.nodeid.partition("::")[0]].append(item)
        folder = self.log.parent / "measured"
        folder.mkdir(exist_ok=True)
        notes = {file: folder / f"{Path(file).stem}.{_digest_with(file)}.json" for file in of_files}
        self._measure_files([(of_files[f], note) for f, note in notes.items() if not note.exists()])
        for note in notes.values():
            found = json.loads(note.read_text())
            measured.seconds.update(found["seconds"])
            for module, line, tests in found["lines"]:
                measured.tests_of.setdefault((module, line), set()).update(tests)
        return measured

    def _measure_files(self, files: list[tuple[list[pytest.Item], Path]]) -> None:
        cores = usable_cpus()
        children = []
        for core in range(cores):
            pid = os.fork()
            if pid == 0:
                silenced()
                for items, note in files[core::cores]:
                    self._measure_file(items, note)
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)

    def _measure_file(self, items: list[pytest.Item], note: Path) -> None:
        """Run the tests of a file, and note how long each takes and which lines it executes."""
        seconds: dict[str, float] = {}
        self.cover.erase()
        self.cover.start()
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.cover.switch_context(item.nodeid)
            start = time.perf_counter()
            reports = runtestprotocol(item, log=False, nextitem=following)
            if all(report.passed for report in reports):
                seconds[item.nodeid] = time.perf_counter() - start
        self.cover.stop()
        lines = [
            [module, line, [test for test in tests if test in seconds]]
            for (module, line), tests in self._lines().items()
        ]
        partial = note.with_suffix(".part")
        partial.write_text(json.dumps({"seconds": seconds, "lines": lines}))
        partial.replace(note)

    def _lines(self) -> dict[tuple[str, int], list[str]]:
        """Return the tests that have executed each line, by module and line."""
        data = self.cover.get_data()
        return {
            (os.path.relpath(file), line): tests
            for file in data.measured_files()
            for line, tests in data.contexts_by_lineno(file).items()
        }
