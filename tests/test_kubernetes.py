"""The manifests are valid by Kubernetes' own schemas, and what they name exists in the code."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from orpheus.cli import app
from orpheus.settings import Settings, load_settings, setting_name
from tests.support.kustomize import Resource, build, containers
from tests.support.live import ROOT

FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = ["cpu", "gpu", "agent"]
VERSIONS = ["1.31.0", "1.37.0"]
TIERS = {"llama": 5006, "speech": 5005}


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return build(FOLDER / request.param)


def find(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = (each for each in resources if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def pod(resources: list[Resource], name: str) -> dict[str, Any]:
    return dict(find(resources, "Deployment", name)["spec"]["template"]["spec"])


@pytest.mark.parametrize("version", VERSIONS)
def test_each_is_valid_by_the_schemas_of_kubernetes(resources: list[Resource], version: str) -> None:
    for each in resources:
        kubernetes_validate.validate(each, version, strict=True)


def test_a_field_that_does_not_exist_is_found() -> None:
    deployment = find(build(FOLDER / "cpu"), "Deployment", "llama")
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def environment(resources: list[Resource], name: str) -> dict[str, str]:
    """Of a Deployment's first container: its own, and those of what it refers to."""
    (container,) = pod(resources, name)["containers"]
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            values |= find(resources, "ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            values |= find(resources, "Secret", source["secretRef"]["name"])["stringData"]
    return values | {each["name"]: each["value"] for each in container.get("env", ())}


@pytest.mark.parametrize("tier", TIERS)
def test_settings_and_commands_exist_and_mean_what_the_manifest_relies_on(
    resources: list[Resource], tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(resources, tier)
    known = {setting_name(name) for name in Settings.model_fields} | {"HF_HOME"}
    assert set(given) <= known
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.host == "0.0.0.0"
    assert (settings.llama_port if tier == "llama" else settings.port) == TIERS[tier]
    grace_s = pod(resources, tier)["terminationGracePeriodSeconds"]
    for container in (each for each in containers(resources) if each["image"].startswith("ghcr.io")):
        assert container["command"][:3] == ["python", "-m", "orpheus"]
        assert container["command"][3] in get_command(app).commands  # type: ignore[attr-defined]
    (container,) = pod(resources, tier)["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"
    wait_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert wait_s + settings.drain_s < grace_s


def test_probes_and_ports_are_those_of_the_code(resources: list[Resource]) -> None:
    documented = (ROOT / "docs/operate.md").read_text()
    for tier, port in TIERS.items():
        (container,) = pod(resources, tier)["containers"]
        assert container["ports"] == [{"name": "http", "containerPort": port}]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container[probe]:
                assert f"`{container[probe]['httpGet']['path']}`" in documented
        policy = find(resources, "NetworkPolicy", tier)
        assert [rule["port"] for each in policy["spec"]["ingress"] for rule in each["ports"]] == [port]
    envoy = yaml.safe_load(find(resources, "ConfigMap", "balancer")["data"]["llama.yaml"])["static_resources"]
    assert envoy["listeners"][0]["address"]["socket_address"]["port_value"] == 5010
    (endpoints,) = envoy["clusters"][0]["load_assignment"]["endpoints"]
    address = endpoints["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "llama", "port_value": TIERS["llama"]}
    assert find(resources, "Service", "llama")["spec"]["clusterIP"] == "None"  # so that the name is all pods
    assert environment(resources, "speech")["ORPHEUS_LLAMA_ENDPOINT"] == "http://balancer:5010"


def test_tier_1_is_reached_by_the_balancer_and_the_collector_alone(resources: list[Resource]) -> None:
    (rule,) = find(resources, "NetworkPolicy", "llama")["spec"]["ingress"]
    assert [next(iter(each)) for each in rule["from"]] == ["podSelector", "namespaceSelector"]
    assert rule["from"][0]["podSelector"] == {"matchLabels": {"app": "balancer"}}


def test_the_balancer_stays_until_the_streams_through_it_have_had_their_time(
    resources: list[Resource],
) -> None:
    balancer = pod(resources, "balancer")
    stays_s = balancer["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert int(environment(resources, "llama")["ORPHEUS_DRAIN_S"]) <= stays_s
    assert stays_s < balancer["terminationGracePeriodSeconds"]


def test_scaling_is_on_metrics_that_exist_and_below_what_a_pod_can_do(resources: list[Resource]) -> None:
    reference = (ROOT / "docs/reference.md").read_text()
    for tier in TIERS:
        (metric,) = find(resources, "HorizontalPodAutoscaler", tier)["spec"]["metrics"]
        assert f"`{metric['pods']['metric']['name']}` | gauge" in reference
    streams = int(environment(resources, "llama").get("ORPHEUS_STREAMS", 8))
    (metric,) = find(resources, "HorizontalPodAutoscaler", "llama")["spec"]["metrics"]
    assert 0.7 <= int(metric["pods"]["target"]["averageValue"]) / streams <= 0.85


def test_nothing_runs_as_root_or_writes_to_its_image(resources: list[Resource]) -> None:
    for each in resources:
        if each["kind"] == "Deployment":
            assert each["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers(resources):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_every_name_that_is_referred_to_is_there(resources: list[Resource]) -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in resources}
    for each in resources:
        if each["kind"] != "Deployment":
            continue
        for volume in each["spec"]["template"]["spec"].get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
        for kind in ("PodDisruptionBudget", "Service"):
            if (kind, each["metadata"]["name"]) in names:
                selector = find(resources, kind, each["metadata"]["name"])["spec"]["selector"]
                wanted = selector.get("matchLabels", selector)
                assert wanted.items() <= each["spec"]["template"]["metadata"]["labels"].items()


def test_the_gpu_overlay_asks_for_gpus_and_the_published_weights() -> None:
    resources = build(FOLDER / "gpu")
    for tier in TIERS:
        (container,) = pod(resources, tier)["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    values = environment(resources, "llama")
    assert not re.search("embedded", values["ORPHEUS_MODEL"] + values["ORPHEUS_CODEC"])


def test_the_agents_pods_are_scaled_before_they_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = build(FOLDER / "agent")
    (container,) = pod(resources, "speech")["containers"]
    command = get_command(app).commands["speech"]  # type: ignore[attr-defined]
    assert container["command"][4:] == ["--agent"]
    assert container["image"] == "ghcr.io/OWNER/orpheus-agent:latest"
    assert "--agent" in {option for each in command.params for option in each.opts}
    (metric,) = find(resources, "HorizontalPodAutoscaler", "speech")["spec"]["metrics"]
    for name, value in environment(resources, "speech").items():
        monkeypatch.setenv(name, value)
    limit = load_settings().max_conversations
    assert limit
    assert int(metric["pods"]["target"]["averageValue"]) == 0.75 * limit
