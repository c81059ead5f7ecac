import pytest

from taskq.cli.params import expand_node, node_name


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


def test_several_processes_are_numbered() -> None:
    assert node_name(None, "web", 2) == "celery-2@web"
    assert node_name("w%i@h", "web", 2) == "w2@h"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/run/%n.pid", "/run/w1.pid"),
        ("/log/%p-%i.log", "/log/w1@web.example.org-2.log"),
        ("%h %d %% %x", "web.example.org example.org % %x"),
    ],
)
def test_file_names_are_expanded_by_celerys_letters(text: str, expected: str) -> None:
    assert expand_node(text, "w1@web.example.org", 2) == expected
