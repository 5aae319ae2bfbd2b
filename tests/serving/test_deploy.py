"""The deployment files: they parse, are locked down, and their commands are ones that this build takes."""

import importlib
from pathlib import Path
from typing import Any

import click
import pytest

from serving.commands import serve
from serving.config import load_config

yaml: Any = importlib.import_module("yaml")
DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def pods() -> list[tuple[str, Any]]:
    found = []
    for path in MANIFESTS:
        for one in documents(path):
            assert {"apiVersion", "kind", "metadata", "spec"} <= set(one), path
            if one["kind"] == "Deployment":
                found.append((one["metadata"]["name"], one["spec"]["template"]["spec"]))
            if one["kind"] == "CronJob":
                found.append((one["metadata"]["name"], one["spec"]["jobTemplate"]["spec"]["template"]["spec"]))
    return found


@pytest.mark.parametrize(("name", "pod"), pods())
def test_pods_run_as_nobody_in_particular_on_a_read_only_root(name: str, pod: Any) -> None:
    assert pod["securityContext"]["runAsNonRoot"], name
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["resources"]["limits"]["memory"]


def commands() -> list[list[str]]:
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["serve"]["command"]
    kubernetes = dict(pods())["vicinal-serve"]["containers"][0]["args"]
    return [compose, kubernetes]


@pytest.mark.parametrize("words", commands(), ids=["compose", "kubernetes"])
def test_the_server_takes_the_arguments(words: list[str]) -> None:
    assert words[0] == "serve"
    parsed = click.Context(serve)
    serve.parse_args(parsed, list(words[1:]))
    options = parsed.params
    flags = ["listen.insecure=true"] if options["insecure"] else []
    config = load_config(None, assignments=[*options["assignments"], f"listen.host={options['host']}", *flags])
    assert config.observe.metrics_port == 9464


def test_the_server_is_probed_and_has_time_to_drain() -> None:
    pod = dict(pods())["vicinal-serve"]
    container = pod["containers"][0]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert pod["terminationGracePeriodSeconds"] > load_config(None).listen.drain_s
    ports = {port["name"] for port in container["ports"]}
    service = next(one for path in MANIFESTS for one in documents(path) if one["kind"] == "Service")
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_compose_names_what_it_mounts() -> None:
    compose = documents(DEPLOY / "compose.yaml")[0]
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in compose["volumes"] or source.startswith((".", "/"))
    scrape = documents(DEPLOY / "prometheus.yml")[0]["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == ["serve:9464"]
