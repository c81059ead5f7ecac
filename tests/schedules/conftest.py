"""Where schedulers are tested: on each broker there is."""

import pytest

from tests.harness import Place


@pytest.fixture
def place(on_all_brokers: Place) -> Place:
    """Every place, for tests that take an app of it."""
    return on_all_brokers
