"""The Helm chart renders to objects that Kubernetes takes, in each of its shapes."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import loads

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy" / "k8s" / "slipstream"
RENDERER = ROOT / "tests" / "support" / "helm" / "render.go"
KUBERNETES = "1.30"
OPERATORS_OWN = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}

pytestmark = pytest.mark.skipif(
    shutil.which("go") is None, reason="needs Debian's package golang-go"
)

SHAPES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "durable, scaled by CPU and load": {
        "persistence": {"enabled": True, "storageClassName": "fast"},
        "autoscaling": {"enabled": True, "inFlightPerPod": 150},
        "redis": {"existingSecret": {"name": "redis", "key": "url"}},
        "secretRefs": ["vendors"],
        "networkPolicy": {"from": [{"namespaceSelector": {}}]},
    },
    "all that operators bring": {
        "keda": {"enabled": True, "jobLagSeconds": 10},
        "serviceMonitor": {"enabled": True},
        "prometheusRules": {"enabled": True},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": [{"host": "gateway.example.com"}],
            "tls": [{"hosts": ["gateway.example.com"], "secretName": "tls"}],
        },
        "redis": {"url": "redis://redis:6379/0"},
        "qdrant": {"url": "http://qdrant:6333"},
        "otlpEndpoint": "http://collector:4318",
        "tolerations": [{"key": "gateway", "operator": "Exists"}],
        "nodeSelector": {"pool": "gateway"},
        "env": [{"name": "OPENAI_FAST_MODEL", "value": "small"}],
        "podAnnotations": {"a": "b"},
        "config": {"server": {"max_inflight_requests": 77}, "state": {"redis_budget_ms": 7}},
    },
}


def _over(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


@pytest.fixture(scope="module")
def renderer(tmp_path_factory) -> Path:
    """The renderer, compiled once."""
    program = tmp_path_factory.mktemp("helm") / "render"
    command = ["go", "build", "-o", program, RENDERER]
    environment = {"GOFLAGS": "-mod=mod", "GO111MODULE": "off", "HOME": str(program.parent)}
    subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin:/usr/local/bin", **environment})
    return program


def render(renderer: Path, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Render all templates with the chart's values and these over them."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    asked = {
        "context": {
            "Values": _over(yaml.safe_load((CHART / "values.yaml").read_text()), values),
            "Chart": {"Name": chart["name"], "AppVersion": chart["appVersion"]},
            "Release": {"Name": "prod", "Namespace": "llm", "Service": "Helm"},
        },
        "templates": {path.name: path.read_text() for path in (CHART / "templates").iterdir()},
        "files": {"rules.yml": (CHART / "rules.yml").read_text()},
    }
    return subprocess.run(
        [renderer], input=json.dumps(asked), capture_output=True, text=True, check=False
    )


def objects(renderer: Path, values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every object of the chart by kind and name."""
    done = render(renderer, values)
    assert done.returncode == 0, done.stderr
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, text in json.loads(done.stdout).items():
        if name.endswith(".yaml"):
            for item in yaml.safe_load_all(text):
                if item:
                    found[item["kind"], item["metadata"]["name"]] = item
    return found


def workload(made: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """The Deployment or StatefulSet."""
    return next(v for (kind, _), v in made.items() if kind in {"Deployment", "StatefulSet"})


@pytest.mark.parametrize("shape", SHAPES)
def test_kubernetes_takes_every_object(renderer, shape) -> None:
    made = objects(renderer, SHAPES[shape])
    for (kind, _), item in made.items():
        if kind not in OPERATORS_OWN:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gateway_takes_the_configuration_that_is_made_for_it(renderer, shape) -> None:
    made = objects(renderer, SHAPES[shape])
    text = made["ConfigMap", "prod-slipstream"]["data"]["gateway.yaml"]
    settings = loads(text, "gateway.yaml", {"REDIS_URL": "redis://r:6379/0"})
    assert settings.server.host == "0.0.0.0"
    assert settings.state.redis_url == "redis://r:6379/0"
    assert settings.state.data_dir == "/var/lib/slipstream"
    given = SHAPES[shape].get("config", {}).get("server", {})
    for key, value in given.items():
        assert getattr(settings.server, key) == value


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_that_points_at_the_pods_finds_them(renderer, shape) -> None:
    made = objects(renderer, SHAPES[shape])
    labels = workload(made)["spec"]["template"]["metadata"]["labels"]
    for (kind, _), item in made.items():
        spec = item.get("spec", {})
        selectors = {
            "Service": [spec.get("selector")],
            "PodDisruptionBudget": [spec.get("selector", {}).get("matchLabels")],
            "NetworkPolicy": [spec.get("podSelector", {}).get("matchLabels")],
        }.get(kind, [])
        for selector in selectors:
            assert selector
            assert selector.items() <= labels.items(), kind
        if kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = spec["scaleTargetRef"]
            assert (target["kind"], target["name"]) in made


def test_a_pod_may_do_nothing_that_it_need_not(renderer) -> None:
    pod = workload(objects(renderer, {}))["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_a_rollout_closes_no_door_before_another_is_open(renderer) -> None:
    made = workload(objects(renderer, {}))
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = made["spec"]["template"]["spec"]
    grace = loads("{}", "x", {}).server.shutdown_grace_s
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert pod["terminationGracePeriodSeconds"] > grace + values["preStopSeconds"]
    assert pod["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_secrets_come_by_reference_alone(renderer) -> None:
    made = workload(objects(renderer, SHAPES["durable, scaled by CPU and load"]))
    [container] = made["spec"]["template"]["spec"]["containers"]
    redis = next(each for each in container["env"] if each["name"] == "REDIS_URL")
    assert redis["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "url"}
    assert container["envFrom"] == [{"secretRef": {"name": "vendors"}}]


def test_a_changed_configuration_starts_new_pods(renderer) -> None:
    def stamp(values: dict[str, Any]) -> str:
        template = workload(objects(renderer, values))["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/config"]

    assert stamp({}) == stamp({"replicas": 9})
    assert stamp({}) != stamp({"config": {"routing": {"fast_share": 0.5}}})


def test_two_autoscalers_are_refused_in_words(renderer) -> None:
    done = render(renderer, {"keda": {"enabled": True}, "autoscaling": {"enabled": True}})
    assert done.returncode == 1
    assert "choose autoscaling or keda" in done.stderr


def test_the_rules_are_those_that_prometheus_gets_elsewhere(renderer) -> None:
    made = objects(renderer, SHAPES["all that operators bring"])
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert made["PrometheusRule", "prod-slipstream"]["spec"] == rules
