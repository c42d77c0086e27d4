"""The verdict of a report says what the paired tests say, and no more than that."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.analysis.statistics import compare, holm, smallest_p
from benchmarks.analysis.verdict import Words, headline, section
from benchmarks.experiments.comparison.sections import sections
from benchmarks.experiments.comparison.summary import comparisons
from benchmarks.experiments.comparison.verdict import WORDS, verdict
from benchmarks.rendering.document import Section
from tests.test_figures import outcome

ABOVE = Words("above", "below", "above", "below", "", 1)


def found_of(*differences: tuple[str, str, list[float]]) -> pd.DataFrame:
    """Return the tests of lfp against others, from what it has more of in points, by seeds."""
    rows = []
    for group, other, values in differences:
        found = compare([value / 100 for value in values], [0.0] * len(values))
        low, high = found.interval.low, found.interval.high
        row = {"group": group, "one": "lfp", "other": other, "seeds": found.seeds, "p": found.p}
        rows.append({**row, "difference": found.difference, "low": low, "high": high})
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p"].tolist()))


EIGHT = [2.0, 2.1, 1.9, 2.2, 1.8, 2.0, 2.1, 1.9]
NOISE = [1.0, -1.1, 0.9, -0.8, 1.2, -1.0, 0.7, -0.9]


def test_a_clear_difference_is_told_with_its_size_and_how_sure_it_is() -> None:
    found = section(found_of(("relu", "fa", EIGHT), ("relu", "sgd", NOISE)), WORDS)
    assert found.text[0] == (
        "By 95% intervals, lfp is better in 1 and level in 1 of 2 comparisons. This difference is "
        "significant after Holm's correction."
    )
    assert found.text[1].startswith(
        "Level: these seeds cannot tell the two apart, which may still differ by about 0."
    )
    assert found.points == [
        ("against fa", "better in 1 (relu) by 2.0 points, significant"),
        ("against sgd", "level in 1 (relu)"),
    ]
    (told,) = found.folded_text
    assert told.startswith("relu: lfp is 2.0 points more accurate than fa (95% interval 1.9 to 2")
    assert told.endswith(", p 0.016). lfp is level with sgd (+0.0).")


def test_a_difference_in_the_other_direction_is_told_so() -> None:
    found = section(found_of(("relu", "fa", [-value for value in EIGHT])), WORDS)
    (told,) = found.text
    assert told.startswith("By 95% intervals, lfp is worse in the one comparison. This difference ")
    assert found.points == [("against fa", "worse in 1 (relu) by 2.0 points, significant")]
    assert "lfp is 2.0 points less accurate than fa" in found.folded_text[0]


def test_noise_cannot_be_told_apart() -> None:
    found = section(found_of(("relu", "sgd", NOISE), ("silu", "sgd", NOISE)), WORDS)
    assert found.text[0] == (
        "By 95% intervals, lfp is level in both comparisons. No difference is significant after "
        "Holm's correction."
    )
    assert found.points == [("against sgd", "level in 2")]
    assert "accurate than" not in " ".join(found.folded_text)


def test_a_line_is_for_a_pair_and_has_its_groups_in_each_direction() -> None:
    more, less = [10 * value for value in EIGHT], [-value for value in EIGHT]
    groups = (("relu", EIGHT), ("silu", more), ("elu", EIGHT), ("tanh", less), ("lif", NOISE))
    found = found_of(*((group, "fa", values) for group, values in groups))
    found.loc[found["group"] == "elu", "p_holm"] = 0.5
    assert section(found, WORDS).points == [
        (
            "against fa",
            "better in 3 by 2.0 to 20.0 points, 2 significant; level in 1 (lif); "
            "worse in 1 (tanh) by 2.0 points, significant",
        )
    ]
    assert "4 comparisons" not in headline(found, WORDS)
    assert "3 of these differences are significant" in headline(found, WORDS)


def test_pairs_of_several_methods_are_named_in_full() -> None:
    found = found_of(("error", "sgd", EIGHT), ("error", "wsgd", NOISE))
    found["one"] = ["lfp", "sgd"]
    told = section(found, ABOVE)
    assert told.text[0].startswith("By 95% intervals, 1 of 2 comparisons shows a difference. This ")
    assert told.points[0] == ("lfp against sgd", "above in 1 (error) by 0.0, significant")
    assert told.points[1] == ("sgd against wsgd", "level in 1 (error)")


def test_seeds_that_are_too_few_after_the_correction_are_told() -> None:
    """Five seeds can give no p under 1/16, however clear the difference is."""
    assert smallest_p(5) == 0.0625
    found = section(found_of(("relu", "fa", EIGHT[:5])), WORDS)
    assert found.text == [
        "By 95% intervals, lfp is better in the one comparison. No difference is significant after "
        "Holm's correction, and with 5 pairs none could be."
    ]
    assert found.folded_text[0].startswith("With 5 seeds p is at least 0.062.")
    assert found.folded_text[0].endswith("the smallest p has to be at most 0.05.")
    assert "By the interval alone, not after the correction: lfp is 2.0" in found.folded_text[1]


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_for_a_test_say_nothing_of_which_method_is_better(seeds: int) -> None:
    found = section(found_of(("relu", "fa", EIGHT[:seeds])), WORDS)
    assert found.text == [
        "Nothing can be said of which method is better: a test takes at least 3 pairs of runs with "
        f"the same seed, not {seeds}."
    ]
    assert not [*found.points, *found.folded_text]


def test_what_is_not_tested_is_no_part_of_the_verdict() -> None:
    found = found_of(("a", "fa", EIGHT), ("b", "sgd", EIGHT))
    found.loc[found["group"] == "b", ["p", "p_holm"]] = np.nan
    told = section(found, ABOVE)
    assert "in the one comparison" in told.text[0]
    assert [name for name, _ in told.points] == ["against fa"]
    assert "sgd" not in " ".join([*told.text, *told.folded_text])


def test_without_pairs_there_is_no_verdict() -> None:
    assert "No two methods were compared" in headline(pd.DataFrame(), WORDS)


def of(*counts: int, **others: Any) -> Section | None:
    return verdict(outcome(*counts, **others))


def test_a_comparison_has_its_verdict_with_the_highest_mean() -> None:
    found = of(3, 1, 3)
    assert found is not None
    assert found.verdict
    assert found.detail, "it is on the page alone"
    assert "The highest mean test accuracy is " in " ".join(found.folded_text)
    assert "Means are of 3 seeds, and tests are against lfp alone." in found.text
    assert "diverged, and count with the last accuracy" in " ".join(found.text)


def test_a_comparison_tells_by_how_much_lfp_is_above_the_others() -> None:
    one = outcome(4, 1, 8)
    found = verdict(one)
    assert found is not None
    told, table = " ".join(found.folded_text), comparisons(one).dropna(subset="p")
    assert list(table["method"]) == ["wsgd", "fa"]
    for method, difference in zip(table["method"], -100 * table["difference"], strict=True):
        level = f"{method} ({difference:+.1f})"
        direction = "more" if difference > 0 else "less"
        apart = f"lfp is {abs(difference):.1f} points {direction} accurate than {method} "
        assert (level in told) != (apart in told)


def test_one_seed_and_one_method() -> None:
    found = of(3, 1, 1)
    assert found is not None
    assert found.text[0].startswith("Nothing can be said of which method is better")
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
