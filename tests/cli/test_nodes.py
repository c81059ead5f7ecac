import pytest

from taskq.cli.nodes import node_name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "celery@web.example.org"),
        ("w1@%h", "w1@web.example.org"),
        ("w1@%n", "w1@web"),
        ("w1@%d", "w1@example.org"),
        ("%n@x", "web@x"),
        ("w1@", "w1@web.example.org"),
        ("@x", "celery@x"),
        ("w1", "celery@w1"),
        ("w%%h", "celery@w%h"),
    ],
)
def test_node_names_are_celerys(given: str | None, expected: str) -> None:
    assert node_name(given, "web.example.org") == expected
