"""The guide's examples run on every broker."""

import pytest

from tests.harness import Place


@pytest.fixture
def place(everywhere: Place) -> Place:
    return everywhere
