"""How the commands carry out one part of a study, and show what was found."""

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from benchmarks.cli import divergence, logs
from benchmarks.cli.app import refusing
from benchmarks.cli.output import print_table, progress, resumable, say
from benchmarks.data import DataError
from benchmarks.rendering.text import remarks, rows
from benchmarks.runs.executors import Executor, ExecutorError
from benchmarks.runs.store import Store, readable
from benchmarks.storage.files import StoreError, read_json, remove_leftovers, write_json
from benchmarks.storage.provenance import describe
from benchmarks.storage.schema import current, versioned
from benchmarks.studies.collect import noted_study
from benchmarks.studies.plan import kind_of
from benchmarks.studies.written import SOURCE

Made = dict[str, Any]  # what `--json` says of a part


def make(
    experiment: str,
    options: BaseModel,
    folder: Path,
    device: torch.device,
    executor: Executor,
    command: str,
    columns: str | None,
) -> Made:
    """Carry out an experiment, and show these columns of its main table; return it as JSON."""
    from benchmarks.experiments.conduct import Place, carry_out, status  # noqa: PLC0415  (slow)

    kind = kind_of(experiment)
    with (
        refusing(ValueError, StoreError, ExecutorError, DataError, OSError, MemoryError),
        resumable(command, folder),
        Store(folder).locked(),
        logs.stored(folder, command),
    ):
        remove_leftovers(folder)
        description = describe_study(experiment, options, folder, device, command)
        if others := status(kind, options, folder).of_other_code:
            say(f"{folder}: {others} results of other code are kept, and not used")
        with progress(kind.steps(options)) as advance:
            place = Place(device, advance, executor, command)
            found, sections, files = carry_out(kind, options, folder, place)
    main = next(one for section in sections for one in section.tables)
    if columns is not None:
        shown = None if columns == "all" else main.shown
        print_table(main.lines, [*main.notes, *remarks(found.environments, command)], shown)
    counted = divergence.count(stored.result for stored in found.runs.values())
    divergence.tell(counted)
    say(
        f"Tables and figures are in {folder} ({command_of_report(folder)} makes a page of them): "
        f"{', '.join(files)}"
    )
    runs = [one._asdict() for one in counted]
    return {**description, "folder": str(folder), "runs": runs, "rows": rows(main.frame)}


def command_of_report(folder: Path) -> str:
    """Return the command that writes a report on the study that this folder is, or is a part of."""
    study = folder.parent if (folder.parent / SOURCE).exists() else folder
    study = study if study.name else Path(os.path.realpath(study))
    results = [] if study.parent == Path("results") else ["--results", str(study.parent)]
    return shlex.join(["lfp-bench", "report", study.name, *results])


def refuse_another_file(name: str, folder: Path) -> None:
    """Note which study file the folder belongs to; refuse the folder of another one.

    Two files of the same name in different places would otherwise report each other's numbers, and
    a comparison in the folder would hide the parts.

    Raises:
        ValueError: the folder is of another file, or of a comparison.
        StoreError: what the folder says of its file cannot be read.
        OSError: it cannot be written.
    """
    written = not name.endswith((".yaml", ".yml"))
    # Relative, so that files and results can be moved together; a loop of links is told of later.
    file = os.path.relpath(os.path.realpath(name), os.path.realpath(folder))
    own = name if written else Path(file).as_posix()
    if (folder / "study.json").exists():
        raise ValueError(
            f"study: {folder} holds the results of a comparison, not of {own}; "
            "allowed: another name for the file, or other --results"
        )
    if (other := noted_study(folder)) is None:
        write_json(folder / SOURCE, versioned({"study": own}))
    elif other != own:
        raise ValueError(
            f"study: {folder} holds the results of {other} (seen from there), not of {own}; "
            "allowed: another name for the file, or other --results"
        )


def refuse_parts(folder: Path) -> None:
    """Refuse the folder of a study with parts for a comparison, which would hide them.

    Raises:
        ValueError: the folder has parts, or is that of a part.
        StoreError: what the folder says of its study file cannot be read.
    """
    for whole in (folder, folder.parent):
        if (other := noted_study(whole)) is not None:
            raise ValueError(
                f"study: {whole} holds the parts of {other} (seen from there); "
                "allowed: another --study, or other --results"
            )
    if parts := sorted(path.parent.name for path in folder.glob("*/study.json")):
        raise ValueError(
            f"study: {folder} holds studies of its own ({parts[0]}); "
            "allowed: another --study, or other --results"
        )


def counted(parts: Iterable[Made]) -> list[divergence.Counted]:
    """Return the counts of reported runs in all parts of a study."""
    return [divergence.Counted(**one) for part in parts for one in part["runs"]]


def describe_study(
    experiment: str, options: BaseModel, folder: Path, device: torch.device, command: str
) -> Made:
    """Write what the study in the folder is to its study.json.

    Returns:
        The content.

    Raises:
        StoreError: another version has written that file, which alone can read it, or from which
            the study has to be brought on.
        OSError: it cannot be written.
    """
    _refuse_another_version(folder / "study.json")
    description = versioned(
        {
            "command": command,
            "experiment": experiment,
            "options": options.model_dump(mode="json"),
            "configuration": kind_of(experiment).configuration(options),
            "environment": describe(device),
        }
    )
    write_json(folder / "study.json", description)
    return description


def _refuse_another_version(path: Path) -> None:
    """Raise `StoreError` for the content of another version; what is damaged may be replaced."""
    with suppress(ValueError):
        content = read_json(path)
        if isinstance(content, dict):
            with readable(path):
                current(content)
