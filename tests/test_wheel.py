"""What is installed from the built package, as a stranger gets it."""

import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "taskq", "worker", "broker_adapters")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def call(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the working tree."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", ".", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_holds_every_module_as_a_file(wheel: Path) -> None:
    expected = {
        f"{'' if top == 'taskq' else 'taskq/'}{path.relative_to(ROOT)}"
        for top in ("taskq", "worker", "broker_adapters")
        for path in (ROOT / top).rglob("*.py")
        if not {"taskq/worker", "taskq/broker_adapters"} & set(map(str, path.relative_to(ROOT).parents))
    }
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: info for info in archive.infolist()}
    assert expected - set(files) == set()
    assert {"taskq/worker/__init__.py", "taskq/broker_adapters/__init__.py", "taskq/py.typed"} <= set(files)
    assert {name.split("/")[0] for name in files if ".dist-info" not in name} == {"taskq"}
    assert not any(stat.S_ISLNK(info.external_attr >> 16) for info in files.values())


def test_installs_and_imports_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """A project that has a worker.py of its own keeps it."""
    call(sys.executable, "-m", "venv", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    (tmp_path / "worker.py").write_text("MINE = True\n")
    found = call(
        python,
        "-c",
        "import worker, taskq.worker, taskq.broker_adapters; print(worker.MINE, taskq.worker.__file__)",
        cwd=tmp_path,
    )
    assert found.startswith(f"True {tmp_path}/venv/")
