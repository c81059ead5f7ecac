"""docker-compose.yml, judged without a Docker engine: by the schema of the Compose specification and by our files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return found


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    """check-jsonschema carries the schema of github.com/compose-spec/compose-spec (Apache-2.0)."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_keeps_to_the_compose_specification() -> None:
    done = validate(FILE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_refuses_a_wrong_file(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("healthcheck:", "healthchek:"))
    assert validate(wrong).returncode != 0


def test_every_service_is_checked_for_health(services: dict[str, Any]) -> None:
    assert set(services) == {"redis", "rabbitmq", "worker"}
    assert all(service["healthcheck"]["test"][0] == "CMD" for service in services.values())


def test_the_worker_waits_until_the_servers_are_healthy(services: dict[str, Any]) -> None:
    waits = services["worker"]["depends_on"]
    assert waits == {"redis": {"condition": "service_healthy"}, "rabbitmq": {"condition": "service_healthy"}}


def test_ports_are_open_to_this_machine_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_is_built_from_files_that_exist(services: dict[str, Any]) -> None:
    text = (ROOT / services["worker"]["build"]["dockerfile"]).read_text()
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert "taskq" in copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_image_has_all_that_the_package_is_built_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    needed = {project["readme"], *project["license-files"], "worker", "broker_adapters"}
    assert {name for name in needed if name not in text} == set()
