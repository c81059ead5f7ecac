import collections
import os.path
from pathlib import Path

import pytest

from taskq.config.symbols import load_symbol


def test_modules_and_attributes_are_found() -> None:
    assert load_symbol("os.path") is os.path
    assert load_symbol("os.path:join") is os.path.join
    assert load_symbol("os.path.join") is os.path.join
    assert load_symbol("collections:OrderedDict.fromkeys") == collections.OrderedDict.fromkeys


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_symbol("no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_symbol("no_such_module.attribute")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_symbol("no_such_module.a.b")
    with pytest.raises(AttributeError, match="nothing"):
        load_symbol("os.path:nothing")
    with pytest.raises(AttributeError, match="nothing"):
        load_symbol("os.path.nothing")


def test_a_failing_import_inside_a_package_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("import not_installed_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        load_symbol("broken_package.config")
