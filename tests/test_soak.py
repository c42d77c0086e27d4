"""A study that is killed, and that has no space left at times, ends with the same tables."""

from pathlib import Path

import pytest

from tests import soak

#: With the study that is left in peace, two minutes; ``python -m tests.soak`` takes an hour.
SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_the_tables_of_a_disturbed_study_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    found = soak.soak(tmp_path, SECONDS)
    assert found["disturbed studies"] >= 1
    assert found["equal tables and figures"] > 0
    assert found["kills"] > 0
    assert not list(tmp_path.glob("*/disk/*")), "and nothing of it is left"
