"""Studies that are written down: one YAML file each, in several sizes.

::

    title: LFP and SGD on three toy data sets
    source: arXiv 2308.12053, appendix A.7.1
    experiment: comparison                             the kind; this one may be left out
    common: {model: toy-mlp, methods: [lfp, sgd]}      what all parts have
    parts:                                             one table each
      blobs: {dataset: blobs}
      circles: {dataset: circles}
    grid: {epsilon: [0, 0.1]}                          or one for each part and combination of these
    sizes:                                             what a size changes, in all parts
      smoke: {seeds: 1, epochs: 1}
      cpu: {seeds: 3}                                  what two cores finish
      paper: {seeds: 5, parts: [blobs]}                `parts` of a size: those that it has

What a part may say is for the kind of experiment to tell (:mod:`benchmarks.experiments.kinds`);
of a comparison, it is the options of ``lfp-bench compare``
(:class:`benchmarks.experiments.comparison.experiment.Options`), with those of the methods: for all
that have them or, in ``options: {lfp: {epsilon: 0.1}}``, for one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from baselines.registry import pick
from benchmarks.experiments.base import Experiment
from benchmarks.studies import strict_yaml
from benchmarks.studies.written import PlanError, Written, first, read_as


def kind_of(experiment: str) -> Experiment[Any]:
    """Return the kind of this name; raises `ValueError` if there is no such experiment."""
    # All kinds together take seconds to import, and help texts need none.
    from benchmarks.experiments.kinds import EXPERIMENTS  # noqa: PLC0415

    return pick("experiment", experiment, EXPERIMENTS)()


class Plan(Written):
    """The content of a study file, of which every part is what its kind of experiment asks for."""

    @property
    def kind(self) -> Experiment[Any]:
        """What all parts are; raises `ValueError` if there is no such experiment."""
        return kind_of(self.experiment)

    def studies(
        self, size: str, changes: Mapping[str, Any] | None = None, parts: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the options of every part, checked but for what only the data could tell.

        They are of the type that the kind of experiment has.

        Args:
            size: of the study.
            changes: options that all parts have instead of their own.
            parts: those that are wanted; all if there are none.

        Returns:
            The options by the names of the parts.

        Raises:
            PlanError: something is wrong; the message names its path.
        """
        kind, found, every = self.kind, {}, self.options(size)
        self.refuse_of_grid("", changes or {})
        wanted = {part: pick("part", part, every) for part in parts} or every
        for name, own in wanted.items():
            options = {**own, **(changes or {})}
            try:
                # JSON has no truth values that are numbers, and no numbers in quotes.
                found[name] = kind.schema.model_validate_json(json.dumps(options), strict=True)
                kind.runs(found[name])
            except ValidationError as error:
                raise PlanError(f"{name} ({size}): {first(error, kind.schema)}") from None
            except ValueError as error:
                raise PlanError(f"{name} ({size}): {error}") from None
        return found


def read(name: str) -> Plan:
    """Return the study of this name in the package, or in a file that ends with .yaml.

    Raises:
        PlanError: there is none, it is not YAML, or a field is wrong in one of the sizes.
    """
    plan = read_as(Plan, name)
    try:
        for size in plan.sizes:
            plan.studies(size)
    except ValueError as error:
        raise PlanError(f"{name}: {error}") from None
    return plan


def changed(given: Sequence[str]) -> dict[str, Any]:
    """Return options that are given as KEY=VALUE, where a value is written as in a study file.

    Raises:
        PlanError: one is not of this form, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise PlanError(f"{text!r} is not of the form KEY=VALUE")
        if key in found:
            raise PlanError(f"{key}: is given twice")
        try:
            found[key] = strict_yaml.load(value, key)
        except strict_yaml.StrictYAMLError as error:
            raise PlanError(str(error)) from None
        except (ValueError, yaml.YAMLError) as error:
            raise PlanError(f"{key}: not YAML; {' '.join(str(error).split())}") from None
    return found
