"""Mutation testing of `lfp_core`: does a test fail for every small error that is put into it?

``python -m validation.mutation`` changes one operator, number, condition or loop of the engine at a
time, as cosmic-ray has them, and runs the tests that execute the changed line, the fastest first,
until one fails. What survives has to be explained in ``validation/survivors.yaml``: why no test can
tell it from the original.

Every mutant runs in a fork of a process that has imported and collected everything, where the code
of the changed functions is swapped; so a mutant takes a second, not ten. What runs when the engine
is imported, such as the composition of its tables, is imported again in the fork.
"""

import argparse
import ast
import gc
import inspect
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
import yaml
from _pytest.runner import runtestprotocol
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from coverage import Coverage

ENGINE = "lfp_core"
OURS = (ENGINE, "baselines", "validation", "benchmarks")
#: What is put in the place of what. Of the hundred replacements of one comparison by another, one
#: is enough: what notices that notices the others.
OPERATORS = {
    *("AddNot", "ExceptionReplacer", "NumberReplacer", "ZeroIterationForLoop"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Div")
    ),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "BitOr_BitAnd", "BitAnd_BitOr")),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Delete_Not")),
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")
    ),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Is_IsNot", "IsNot_Is")),
}
#: The tests of the engine.
TESTS = [
    f"validation/test_{name}.py"
    for name in (
        *("attention", "bad_input", "compile", "compiled_writes", "composition", "coverage"),
        *("dead_parameters", "engine", "memory", "models", "never_silent", "normalisation"),
        *("oracle", "overwriting", "pooling", "precision", "properties", "recurrent_spellings"),
        *("relatives", "rewards", "reward_examples", "rules", "spellings", "spiking"),
        *("theorem1", "torch_private", "treatments"),
    )
]
#: For what runs at import, those of them that are collected quickly.
TESTS_OF_TABLES = [
    f"validation/test_{name}.py"
    for name in ("torch_private", "rules", "theorem1", "engine", "pooling", "rewards", "treatments")
]
OPTIONS = ["-s", "-q", "--tb=native", "-p", "no:cacheprovider"]
BUDGET = 20.0  # seconds of tests for one mutant, measured without it
LIMIT = 120  # seconds of computation after which a mutant that does not end counts as killed
MEMORY = 16 * 2**30  # bytes that a mutant may address


@dataclass(frozen=True)
class Mutant:
    """One change of one line: the n-th place where a cosmic-ray operator applies in a module."""

    module: str
    operator: str
    occurrence: int
    line: int

    def source(self) -> str:
        """Return the text of the module with the change."""
        operator = plugins.get_operator(f"core/{self.operator}")()
        changed: str = mutate_code(Path(self.module).read_text(), operator, self.occurrence)
        return changed

    def change(self) -> tuple[str, str]:
        """Return the first line that differs, before and after."""
        before, after = Path(self.module).read_text().splitlines(), self.source().splitlines()
        pairs = zip(before, after, strict=False)
        return next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    source = path.read_text()
    tree, places = get_ast(source), _annotated(source)
    for name in sorted(OPERATORS):
        operator = plugins.get_operator(f"core/{name}")()
        starts = [
            start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)
        ]
        for occurrence, start in enumerate(starts):
            if not any(begin <= start < end for begin, end in places):
                yield Mutant(str(path), name, occurrence, start[0])


def _annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where annotations stand, which mypy checks: from and to, as line and column."""
    nodes = list(ast.walk(ast.parse(source)))
    found = [getattr(node, "annotation", None) for node in nodes]
    found += [getattr(node, "returns", None) for node in nodes]
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in found
        if isinstance(node, ast.expr)
    ]


# --- putting a change into a running process ------------------------------------------------------


def _shell(code: CodeType) -> tuple[Any, ...]:
    """Return what a piece of code does itself, without what the functions in it do."""
    constants = tuple(type(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.co_code, constants, code.co_names


def _functions(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _changed(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Yield the functions that differ, inner and outer, with what replaces them."""
    for before, after in zip(_functions(old), _functions(new), strict=True):
        yield from _changed(before, after)
        if before != after:
            yield before, after


def functions_of_engine() -> list[FunctionType]:
    """Return every function of the engine that exists now, also those in closures and classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what a look at an object deprecates
        everything = [each for each in gc.get_objects() if type(each) is FunctionType]
    folder = f"{os.sep}{ENGINE}{os.sep}"
    return [each for each in everything if folder in each.__code__.co_filename]


def swap(module: ModuleType, source: str, functions: list[FunctionType]) -> bool:
    """Replace the code of the functions that a change is in; return False if it is elsewhere."""
    assert module.__spec__ is not None
    loader: Any = module.__spec__.loader
    old = loader.get_code(module.__name__)
    new = compile(source, str(module.__file__), "exec")
    codes = dict(_changed(old, new))
    outside = [(old, new), *codes.items()]
    if any(_shell(a) != _shell(b) for a, b in outside if not a.co_flags & inspect.CO_OPTIMIZED):
        return False  # the module's or a class's own statements
    for function in functions:
        function.__code__ = codes.get(function.__code__, function.__code__)
    return True


class ChangedLoader(SourceFileLoader):
    """Loads a module from another text than its file has."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the changed text."""
        return compile(self.source, self.path, "exec")


class ChangedFinder(MetaPathFinder):
    """Finds that module alone."""

    def __init__(self, loader: ChangedLoader) -> None:
        self.loader = loader

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return the module's specification."""
        if fullname != self.loader.name:
            return None
        package = [str(Path(self.loader.path).parent)] if fullname == ENGINE else None
        spec = spec_from_loader(fullname, self.loader, is_package=package is not None)
        if spec is not None and package:
            spec.submodule_search_locations = package
        return spec


def import_again(name: str, path: str, source: str) -> None:
    """Forget all of the project's modules, and let the next import of one take another text."""
    for each in [each for each in sys.modules if each.split(".")[0] in OURS]:
        if each != __name__:
            del sys.modules[each]
    sys.meta_path.insert(0, ChangedFinder(ChangedLoader(name, path, source)))


# --- running tests --------------------------------------------------------------------------------


def first_failure(items: Sequence[pytest.Item]) -> str:
    """Run tests until one fails; return its name, or nothing."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        reports = runtestprotocol(item, log=False, nextitem=following)
        if any(report.failed for report in reports):
            return item.nodeid
    return ""


class Quickest:
    """A plugin that leaves of a collection what fits in the budget, the fastest first."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort, and cut off."""
        items[:] = within_budget(items, self.seconds)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which test failed."""
        if report.failed:
            self.failed = self.failed or report.nodeid


def within_budget(items: Sequence[pytest.Item], seconds: dict[str, float]) -> list[pytest.Item]:
    """Return as many of the tests as fit in the budget: of each test function one case, and so on.

    The cases of a function come in the order of their time, so do the functions in every round.
    """
    cases: Counter[str] = Counter()
    ranked = []
    for item in sorted(items, key=lambda item: seconds.get(item.nodeid, BUDGET)):
        function = item.nodeid.partition("[")[0]
        ranked.append((cases[function], item))
        cases[function] += 1
    chosen, total = [], 0.0
    for _, item in sorted(ranked, key=lambda pair: pair[0]):
        total += seconds.get(item.nodeid, BUDGET)
        if total <= BUDGET:
            chosen.append(item)
    return chosen


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


@dataclass
class Measured:
    """What the tests do without a change: which lines each executes, and how long it takes."""

    seconds: dict[str, float]
    tests_of: dict[tuple[str, int], set[str]]
    at_import: set[tuple[str, int]]


class Session:
    """A plugin that runs mutants where pytest would run the tests that it collected."""

    def __init__(self, mutants: list[Mutant], log: Path, cover: Coverage) -> None:
        self.mutants, self.log, self.cover = mutants, log, cover
        self.workers: dict[int, Mutant] = {}
        self.functions: list[FunctionType] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure the tests, then try each mutant in a process of its own."""
        items = list(session.items)
        start = time.monotonic()
        measured = self.measure(items)
        print(
            f"{len(measured.seconds)} of {len(items)} tests pass without a change; measured in "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
        self.functions = functions_of_engine()
        for done, mutant in enumerate(self.mutants):
            while len(self.workers) >= (os.cpu_count() or 1):
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
        if code != 0:
            self.record(mutant, f"ended with {code}")

    def record(self, mutant: Mutant, killed_by: str) -> None:
        """Append a result to the log."""
        before, after = mutant.change()
        entry = asdict(mutant) | {"before": before, "after": after, "killed_by": killed_by}
        with self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def attempt(self, mutant: Mutant, items: list[pytest.Item], measured: Measured) -> None:
        """Run the tests of a mutant, in a process of its own."""
        silenced()
        bounded()
        try:
            killed_by = self.killer(mutant, items, measured)
        except Exception as error:  # a mutant that cannot even be compiled
            killed_by = f"{type(error).__name__}: {error}"
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
            if tests:
                chosen = [item for item in items if item.nodeid in tests]
            else:  # what torch.compile traces, and does not run
                chosen = [item for item in items if item.get_closest_marker("compiled")]
            return first_failure(within_budget(chosen, measured.seconds))
        import_again(name, str(path), source)
        quickest = Quickest(measured.seconds)
        code = pytest.main(["-x", *OPTIONS, *TESTS_OF_TABLES], plugins=[quickest])
        return quickest.failed or (f"pytest ended with {code}" if code else "")

    def measure(self, items: list[pytest.Item]) -> Measured:
        """Run all tests once, on all cores, and note what they execute."""
        self.cover.stop()
        at_import = set(self._lines())
        cores = os.cpu_count() or 1
        files = [self.log.with_suffix(f".{core}.json") for core in range(cores)]
        if os.environ.get("LFP_MEASURED"):  # TODO
            files = [Path(f) for f in os.environ["LFP_MEASURED"].split(":")]
            cores = 0
        children = []
        for core, file in enumerate(files[:cores]):
            pid = os.fork()
            if pid == 0:
                silenced()
                self._measure_part(items, core, cores, file)
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        measured = Measured({}, {}, at_import)
        for file in files:
            part = json.loads(file.read_text())
            measured.seconds.update(part["seconds"])
            for module, line, tests in part["lines"]:
                measured.tests_of.setdefault((module, line), set()).update(tests)
            if not os.environ.get("LFP_KEEP"):
                file.unlink()
        return measured

    def _measure_part(self, items: list[pytest.Item], core: int, cores: int, file: Path) -> None:
        """Run the tests of every n-th file."""
        files = sorted({item.nodeid.partition("::")[0] for item in items})
        ours = [i for i in items if files.index(i.nodeid.partition("::")[0]) % cores == core]
        seconds: dict[str, float] = {}
        self.cover.start()
        for item, following in zip(ours, [*ours[1:], None], strict=True):
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
        file.write_text(json.dumps({"seconds": seconds, "lines": lines}))

    def _lines(self) -> dict[tuple[str, int], list[str]]:
        """Return the tests that have executed each line, by module and line."""
        data = self.cover.get_data()
        return {
            (os.path.relpath(file), line): tests
            for file in data.measured_files()
            for line, tests in data.contexts_by_lineno(file).items()
        }


# --- the result -----------------------------------------------------------------------------------


def summary(entries: list[dict[str, Any]], reasons: list[dict[str, str]]) -> dict[str, Any]:
    """Return the counts by module, and the survivors with the reasons that are known."""
    known = {(r["module"], r["before"], r["after"]): r["reason"] for r in reasons}
    survivors = [e for e in entries if not e["killed_by"]]
    for each in survivors:
        each["reason"] = known.get((each["module"], each["before"], each["after"]), "")
    total = Counter(entry["module"] for entry in entries)
    alive = Counter(entry["module"] for entry in survivors)
    return {
        "mutants": len(entries),
        "killed": len(entries) - len(survivors),
        "percent": round(100 * (1 - len(survivors) / max(len(entries), 1)), 1),
        "modules": {m: {"mutants": n, "killed": n - alive[m]} for m, n in sorted(total.items())},
        "survivors": survivors,
    }


def main() -> int:
    """Run what the log does not have yet, and print what survives."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m validation.mutation")
    parser.add_argument("--module", default="*", help="only these files of lfp_core, a pattern")
    parser.add_argument("--log", type=Path, default=Path("results/mutation.jsonl"))
    parser.add_argument("--summary", type=Path, default=Path("results/mutation.json"))
    options = parser.parse_args()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    options.log.touch()
    entries = [json.loads(line) for line in options.log.read_text().splitlines()]
    done = {(e["module"], e["operator"], e["occurrence"]) for e in entries}
    paths = sorted(Path(ENGINE).glob(options.module))
    mutants = [mutant for path in paths for mutant in mutants_of(path)]
    left = [m for m in mutants if (m.module, m.operator, m.occurrence) not in done]
    if left:
        print(f"{len(mutants)} mutants, {len(left)} to run", flush=True)
        cover = Coverage(data_file=None, source=[ENGINE], branch=False, config_file=False)
        cover.start()
        os.environ["LFP_PROFILE"] = "mutation"  # read by validation/conftest.py
        session = Session(left, options.log.resolve(), cover)
        pytest.main([*OPTIONS, *TESTS], plugins=[session])
    entries = [json.loads(line) for line in options.log.read_text().splitlines()]
    reasons = yaml.safe_load(Path("validation/survivors.yaml").read_text()) or []
    result = summary(entries, reasons)
    options.summary.write_text(json.dumps(result, indent=1) + "\n")
    for each in result["survivors"]:
        print(f"{each['module']}:{each['line']}: {each['before']}  ->  {each['after']}")
        print(f"    {each['reason'] or 'NO REASON IS GIVEN'}")
    print(f"{result['killed']} of {result['mutants']} mutants killed: {result['percent']}%")
    explained = all(each["reason"] for each in result["survivors"])
    return 0 if explained and result["percent"] >= 95 else 1


if __name__ == "__main__":
    sys.exit(main())
