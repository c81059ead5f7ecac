from pathlib import Path

import pytest

from taskq.worker.process.supervisor import available_processors


@pytest.mark.parametrize(("text", "most"), [("100000 100000", 1), ("50000 100000", 1), ("900000 100000", 9)])
def test_the_quota_of_a_container_counts(tmp_path: Path, text: str, most: int) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text + "\n")
    free = available_processors(tmp_path / "missing")
    assert available_processors(quota) == min(free, most)


def test_no_quota_means_all_there_are(tmp_path: Path) -> None:
    unlimited = tmp_path / "cpu.max"
    unlimited.write_text("max 100000\n")
    assert available_processors(unlimited) == available_processors(tmp_path / "missing") >= 1
