"""What the suite found: one record for each model, mode and variant, and what is made of many."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

Verdict = Literal["works", "refused", "wrong", "error", "not counted"]
#: From good to bad: a name has the worst verdict of its records.
ORDER: tuple[Verdict, ...] = ("not counted", "works", "refused", "wrong", "error")

#: What is refused on purpose, as ``group:name`` or a pattern of it, and why. Anything else that is
#: refused is a fault of the engine, and so is an entry of which everything works.
REFUSED_ON_PURPOSE: dict[str, str] = {
    "torchvision detection:*": "the outputs are boxes that were decoded, clipped, sorted and "
    "suppressed: they share no reward among what they were made of",
    "transformers:bloom": "its GeLU is a custom Function in training, which no rule sees into",
    "transformers:reformer": "its reversible layers are a custom Function, run backwards",
    "transformers:recurrent_gemma": "a custom Function with a clipped derivative of the root",
    "torch.nn:CrossMapLRN2d": "a custom Function, which shows no mode what it does; "
    "nn.LocalResponseNorm is the same with a rule",
}

#: Groups of other people's packages, some models of which torch itself cannot run. In all others,
#: what torch does not run is a mistake of the suite.
OTHERS = ("timm", "transformers")
#: The share of a group's names that has to work.
GOALS = {
    "torch.nn": 0.97,
    "torchvision classification": 1.0,
    "timm": 0.95,
    "transformers": 0.95,
}


class TimeLimit(Exception):  # noqa: N818  (the reason in a record begins with it)
    """A model has taken too long."""


@dataclass(frozen=True)
class Record:
    """What became of one model in one mode.

    Attributes:
        group: of models, such as "torch.nn" or "torchvision classification".
        name: of the module or model.
        mode: "training" or "evaluation".
        variant: how the model was used, where there is more than one way.
        verdict: "works"; "refused", with a message that names the operation; "wrong", for another
            forward pass than torch's, feedback that is not finite, missing or not as Theorem 1
            says; "error", for any other exception; "not counted" where torch itself does not run.
        reason: why it does not work.
        figures: what was measured.
    """

    group: str
    name: str
    mode: str
    verdict: Verdict
    variant: str = ""
    reason: str = ""
    figures: Mapping[str, float | bool | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Record":
        """Return the record that ``asdict`` has made the content of."""
        return cls(**content)


@dataclass(frozen=True)
class Summary:
    """How many names of a group have which verdict.

    Attributes:
        group: as in the records.
        verdicts: number of names by verdict.
    """

    group: str
    verdicts: Mapping[Verdict, int]

    @property
    def counted(self) -> int:
        """Names that torch itself runs."""
        return sum(self.verdicts.values()) - self.verdicts.get("not counted", 0)

    @property
    def works(self) -> int:
        """Names that work in all modes and variants."""
        return self.verdicts.get("works", 0)

    def __str__(self) -> str:
        """Return one line for people."""
        share = f" ({self.works / self.counted:.1%})" if self.counted else ""
        others = [f"{self.verdicts[v]} {v}" for v in ORDER if v != "works" and v in self.verdicts]
        told = f"{self.group}: {self.works} of {self.counted} work{share}"
        return "; ".join([told, *others])


def worst(records: Iterable[Record]) -> Record:
    """Return the record with the worst verdict, the first of them."""
    return max(records, key=lambda record: ORDER.index(record.verdict))


def by_name(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Return the records of each (group, name)."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        found[record.group, record.name].append(record)
    return dict(found)


def summaries(records: Iterable[Record]) -> list[Summary]:
    """Return the summary of every group, in the order of the records."""
    counts: dict[str, dict[Verdict, int]] = defaultdict(lambda: defaultdict(int))
    for (group, _), of_name in by_name(records).items():
        counts[group][worst(of_name).verdict] += 1
    return [Summary(group, dict(verdicts)) for group, verdicts in counts.items()]


def purpose(record: Record) -> str | None:
    """Return why a record's name is refused on purpose, or None if it is not."""
    key = f"{record.group}:{record.name}"
    for pattern, reason in REFUSED_ON_PURPOSE.items():
        if fnmatchcase(key, pattern):
            return reason
    return None


def faults(records: Iterable[Record]) -> list[str]:
    """Return one line for everything that is not as it has to be."""
    found = []
    for (group, name), of_name in by_name(records).items():
        bad = worst(of_name)
        idle = next((r for r in of_name if r.verdict == "not counted"), None)
        if idle is not None and group not in OTHERS:
            found.append(f"{group}: {name}: {idle.reason}")
        if bad.verdict in ("wrong", "error") or (bad.verdict == "refused" and not purpose(bad)):
            used = ", ".join(filter(None, (bad.mode, bad.variant)))
            found.append(f"{group}: {name} ({used}): {bad.verdict}: {bad.reason}")
        # A pattern may be for most of a group; an entry of its own must be true.
        exact = f"{group}:{name}" in REFUSED_ON_PURPOSE
        if exact and bad.verdict == "works":
            found.append(f"{group}: {name}: works, but is listed as refused on purpose")
    return found
