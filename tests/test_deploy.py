"""What an operator is given to deploy holds together: the image, the compose stack, their configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

from app.settings import load

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
SECRET = re.compile(
    r"(?i)(key|token|password|secret)[\"']?\s*[:=]\s*[\"']?(?!\$\{)(?!none)[\w-]{6,}"
)


def test_the_compose_file_is_one_by_the_specification() -> None:
    merged = yaml.safe_dump({"services": SERVICES, **yaml.safe_load(COMPOSE.read_text())})
    PyCompose.from_yaml(merged).validate()
    assert {"gateway", "redis", "qdrant", "prometheus", "grafana", "collector", "proxy"} <= set(
        SERVICES
    )


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_image_is_built_here_or_pinned_to_a_version(name) -> None:
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", service["image"]), service["image"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_a_service_mounts_is_there(name) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (ROOT / source).exists(), volume


def test_no_port_is_open_to_the_outside_and_no_secret_is_in_the_file() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), port
        for variable, value in service.get("environment", {}).items():
            assert not SECRET.search(variable) or value.startswith("${"), variable


def test_who_depends_on_another_s_health_can_learn_of_it() -> None:
    healthy_by_image = {"gateway"}  # the image's own HEALTHCHECK
    for name, service in SERVICES.items():
        needs = service.get("depends_on", {})
        for other, how in needs.items() if isinstance(needs, dict) else ():
            if how["condition"] == "service_healthy":
                assert other in healthy_by_image or "test" in SERVICES[other]["healthcheck"], name


def test_two_replicas_stand_behind_a_proxy_that_holds_nothing_back() -> None:
    assert SERVICES["gateway"]["deploy"]["replicas"] == 2
    assert "ports" not in SERVICES["gateway"]
    conf = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    assert "proxy_buffering off;" in conf
    assert 'proxy_set_header Connection "";' in conf


@pytest.mark.skipif(not shutil.which("nginx", path="/usr/sbin:/usr/bin"), reason="needs nginx")
def test_nginx_takes_its_configuration(tmp_path) -> None:
    conf = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    file = tmp_path / "nginx.conf"
    # Its name for the replicas is known inside the stack alone.
    file.write_text(
        conf.replace("server gateway:8080", "server 127.0.0.1:8080").replace(
            "pid /tmp", f"pid {tmp_path}"
        )
    )
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    done = subprocess.run(
        [nginx, "-t", "-c", file, "-p", tmp_path, "-e", tmp_path / "log"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_stack_s_configuration_loads_with_nothing_in_the_environment() -> None:
    settings = load(str(ROOT / "deploy" / "gateway.yaml"), {})
    assert settings.telemetry.otlp_endpoint in {None, ""}
    assert len(settings.models) == 4


def test_hadolint_finds_nothing_to_warn_of() -> None:
    hadolint = ROOT / ".venv" / "bin" / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "warning", "--no-color", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_a_number_and_not_as_root() -> None:
    users = re.findall(r"(?m)^USER (\S+)$", (ROOT / "Dockerfile").read_text())
    assert users
    assert int(users[-1]) > 0


def test_the_image_installs_no_package_that_neither_serving_nor_building_the_model_needs() -> None:
    steps = (ROOT / "Dockerfile").read_text()
    locks = set(re.findall(r"requirements[\w-]*\.lock", steps))
    assert locks == {"requirements.lock", "requirements-build.lock", "requirements-weights.lock"}
    assert locks <= {line.lstrip("!") for line in (ROOT / ".dockerignore").read_text().split()}
