import sys
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_manual_says_what_the_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    settings_page = import_module("settings_page")

    try:
        assert settings_page.PAGE.read_text("utf-8") == settings_page.page(), "run `make docs`"
        entries = list(settings_page.entries())
    finally:
        del sys.modules["settings_page"]
    assert [entry.name for entry in entries if not entry.text] == []
    assert len(entries) == len(settings_page.settings.Settings().names())
