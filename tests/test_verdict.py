"""The verdict of a report says what the paired tests say, and no more than that."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.analysis.statistics import compare, holm, smallest_p
from benchmarks.analysis.verdict import Words, headline, section
from benchmarks.experiments.comparison.sections import sections
from benchmarks.experiments.comparison.verdict import WORDS, verdict
from benchmarks.rendering.document import Section
from tests.test_figures import outcome

ABOVE = Words("above", "below", "above", "below", "", 1)


def found_of(*differences: tuple[str, str, list[float]]) -> pd.DataFrame:
    """Return the tests of methods against lfp, from the differences of all seeds in points."""
    rows = []
    for group, one, values in differences:
        found = compare([value / 100 for value in values], [0.0] * len(values))
        low, high = found.interval.low, found.interval.high
        row = {"group": group, "one": one, "other": "lfp", "seeds": found.seeds, "p": found.p}
        rows.append({**row, "difference": found.difference, "low": low, "high": high})
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p"].tolist()))


EIGHT = [2.0, 2.1, 1.9, 2.2, 1.8, 2.0, 2.1, 1.9]
NOISE = [1.0, -1.1, 0.9, -0.8, 1.2, -1.0, 0.7, -0.9]


def test_a_clear_difference_is_told_with_its_size_and_how_sure_it_is() -> None:
    found = found_of(("relu", "fa", [-value for value in EIGHT]), ("relu", "sgd", NOISE))
    told = section(found, WORDS).text
    assert told[0] == (
        "lfp is ahead in 1 (of 2 comparisons, p of at most 0.05 after Holm's correction). "
        "In 1 the two cannot be told apart."
    )
    assert told[1].startswith(
        "relu: fa is 2.0 points less accurate than lfp (95% interval 1.9 to 2"
    )
    assert ", p 0.016). Cannot be told apart from lfp: sgd (-0.0)." in told[1]
    assert told[2].startswith("The smallest difference that these seeds could have shown is about")


def test_a_difference_in_the_other_direction_is_told_so() -> None:
    told = section(found_of(("relu", "fa", EIGHT)), WORDS).text
    assert told[0] == (
        "lfp is behind in 1 (of 1 comparison, p of at most 0.05 after Holm's correction)."
    )
    assert "fa is 2.0 points more accurate than lfp" in told[1]


def test_noise_cannot_be_told_apart() -> None:
    told = section(found_of(("relu", "sgd", NOISE)), WORDS).text
    assert told[0] == (
        "The one comparison does not show a difference after Holm's correction. The two cannot be "
        "told apart."
    )
    assert "accurate than" not in " ".join(told)


def test_seeds_that_are_too_few_after_the_correction_are_told() -> None:
    """Five seeds can give no p under 1/16, however clear the difference is."""
    assert smallest_p(5) == 0.0625
    told = section(found_of(("relu", "fa", EIGHT[:5])), WORDS).text
    assert "with 5 seeds none could: they give a p of at least 0.062, where 0.05" in told[0]
    assert "By 95% intervals alone, lfp is behind in 1." in told[0]
    assert "cannot be told apart" not in told[0]
    assert "By its interval alone, not after the correction: fa is 2.0 points more" in told[1]


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_for_a_test_say_nothing_of_who_is_ahead(seeds: int) -> None:
    (told,) = section(found_of(("relu", "fa", EIGHT[:seeds])), WORDS).text
    assert told == (
        "Nothing can be said of who is ahead: a test takes at least 3 pairs of runs with the same "
        f"seed, not {seeds}."
    )


def test_what_is_not_tested_is_no_part_of_the_verdict() -> None:
    found = found_of(("a", "fa", EIGHT), ("b", "sgd", EIGHT))
    found.loc[found["group"] == "b", ["p", "p_holm"]] = np.nan
    told = " ".join(section(found, ABOVE).text)
    assert "of 1 comparison" in told
    assert "sgd" not in told


def test_without_pairs_there_is_no_verdict() -> None:
    assert "No two methods were compared" in headline(pd.DataFrame(), WORDS)


def of(*counts: int, **others: Any) -> Section | None:
    return verdict(outcome(*counts, **others))


def test_a_comparison_has_its_verdict_with_the_highest_mean() -> None:
    found = of(3, 1, 3)
    assert found is not None
    assert found.verdict
    assert found.detail, "it is on the page alone"
    text = " ".join(found.text)
    assert "The highest mean test accuracy is " in text
    assert "A mean is of 3 seeds, and tests are against lfp alone." in found.text
    assert "diverged, and count with the last accuracy" in text


def test_one_seed_and_one_method() -> None:
    found = of(3, 1, 1)
    assert found is not None
    assert found.text[0].startswith("Nothing can be said of who is ahead")
    assert "another seed may turn the order around" in " ".join(found.text)
    assert of(1, 1, 3) is None


def test_one_seed_and_one_epoch_leave_out_what_they_cannot_say() -> None:
    made = {one.title: one for one in sections(outcome(3, 1, 1, epochs=1))}
    cells = [c for one in made.values() for t in one.tables for row in t.lines[1] for c in row]
    assert not [cell for cell in cells if "± -" in cell or "- to" in cell]
    (paired,) = made["Paired statistics"].tables
    assert list(paired.lines[0]) == ["activation", "method", "difference"]
    (results,) = made["Results"].tables
    assert "±" not in results.notes[0]
    assert [f.caption[:13] for f in made["Learning curves"].figures] == ["Test accuracy"], "no loss"
    assert made["Accuracy and time"].figures == []


def test_several_seeds_and_epochs_leave_out_nothing() -> None:
    made = {one.title: one for one in sections(outcome(3, 1, 4))}
    (paired,) = made["Paired statistics"].tables
    assert len(paired.lines[0]) == 7
    assert len(made["Learning curves"].figures) == 2
    assert len(made["Accuracy and time"].figures) == 1
    (results,) = made["Results"].tables
    assert any("±" in row[2] for row in results.lines[1])
