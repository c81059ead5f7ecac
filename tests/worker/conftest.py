"""Places of the worker's own tests."""

import uuid
from collections.abc import AsyncIterator

import pytest

from taskq import TaskQ
from tests.faults import PLANS
from tests.harness import Place


@pytest.fixture
async def frail() -> AsyncIterator[TaskQ]:
    """An app whose broker and store fail when told to (tests/faults.py)."""
    url = f"faulty://{uuid.uuid4()}"
    async with Place(url, url).app() as app:
        yield app
    PLANS.pop(url, None)
