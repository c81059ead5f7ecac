"""The files of deploy/: their syntax, and that they fit the worker they start."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from taskq.cli.worker import worker
from taskq.config.settings import Settings

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "taskq-worker.service"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
MANIFESTS = ROOT / "deploy" / "kubernetes" / "worker.yaml"


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names keep their case
    parser.read_string(UNIT.read_text())
    return parser


@pytest.fixture
def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFESTS.read_text()))


@pytest.fixture
def container(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = manifests[0]["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def refuse_unknown_options(command: list[str]) -> None:
    """Its options are ones that the worker has."""
    known = {option for parameter in worker.params for option in parameter.opts} | {"-A"}
    given = [word for word in command if word.startswith("-")]
    assert given
    assert [word for word in given if word not in known] == []
    assert CliRunner().invoke(worker, ["--help"]).exit_code == 0


def test_the_unit_starts_a_worker_and_waits_longer_than_its_grace(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    program, verb, *arguments = service["ExecStart"].split()
    assert (Path(program).name, verb) == ("taskq", "worker")
    refuse_unknown_options(arguments)
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > Settings().worker_grace
    assert service["KillMode"] == "mixed"


def test_systemd_itself_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    local = tmp_path / UNIT.name
    text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text())
    local.write_text(text.replace("User=taskq", "User=root").replace("/srv/proj", "/"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(local)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_unit_leaves_a_worker_no_more_than_it_needs(unit: configparser.ConfigParser) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNIT)],
        check=False,
        capture_output=True,
        text=True,
    )
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", rated.stdout)
    assert found is not None, rated.stderr
    assert float(found[1]) < 3.0, rated.stdout  # 9.6 is what a unit without any of it has


def test_the_manifests_are_a_deployment_its_budget_and_its_walls(manifests: list[dict[str, Any]]) -> None:
    kinds = [item["kind"] for item in manifests]
    assert kinds == ["Deployment", "PodDisruptionBudget", "NetworkPolicy"]
    deployment, budget, policy = manifests
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]


def test_the_pod_has_longer_than_the_workers_grace(manifests: list[dict[str, Any]]) -> None:
    seconds = manifests[0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert seconds > Settings().worker_grace


def test_the_container_runs_a_worker(container: dict[str, Any]) -> None:
    program, verb, *arguments = container["command"]
    assert (program, verb) == ("taskq", "worker")
    refuse_unknown_options(arguments)


def test_the_container_may_do_no_more_than_it_needs(
    manifests: list[dict[str, Any]], container: dict[str, Any]
) -> None:
    pod, own = manifests[0]["spec"]["template"]["spec"], container["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # SQLite's and the tasks' temporary files are all that is written outside of the broker and the store.
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_the_network_lets_through_the_ports_that_a_worker_uses(
    manifests: list[dict[str, Any]], container: dict[str, Any]
) -> None:
    [ingress] = manifests[2]["spec"]["ingress"]
    assert [port["port"] for port in ingress["ports"]] == [port["name"] for port in container["ports"]]
    out = {port["port"] for rule in manifests[2]["spec"]["egress"] for port in rule["ports"]}
    assert out == {53, 5671, 5672, 6379, 6380}


def test_probes_ask_where_the_worker_answers(container: dict[str, Any]) -> None:
    port = next(port["containerPort"] for port in container["ports"] if port["name"] == "http")
    assert f"0.0.0.0:{port}" in container["command"]
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
    assert all(container[name]["httpGet"]["port"] == "http" for name in paths)


def test_secrets_are_not_in_the_files(container: dict[str, Any]) -> None:
    assert all("valueFrom" in variable for variable in container["env"])
    assert "://" not in "".join(
        line for line in UNIT.read_text().splitlines() if line.startswith("Environment")
    )


def test_the_image_can_show_the_metrics_that_the_pod_is_scraped_for(
    manifests: list[dict[str, Any]],
) -> None:
    annotations = manifests[0]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == "/metrics"
    [extras] = re.findall(r"pip install .* \.\[(.*)\]$", DOCKERFILE.read_text(), re.MULTILINE)
    assert "metrics" in extras.split(",")


def test_the_manual_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    linked = re.findall(r"\]\(([^)#]+)", text)
    assert "../deploy/kubernetes/worker.yaml" in linked
    assert [path for path in linked if not (ROOT / "docs" / path).exists()] == []
