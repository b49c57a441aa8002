"""deploy/kubernetes: accepted by Kubernetes' own schemas, and in step with the server."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import kubernetes_validate
import pytest
import yaml

from conf_server import __version__
from conf_server.draining import CUT_S
from conf_server.engine.client.start import ENGINE_STOP_TIMEOUT_S
from conf_server.flags import DRAIN_S, parse_args
from conf_server.serving.routes import server_router
from tests.tools.built_package import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
DEPLOYMENT, SERVICE = yaml.safe_load_all((KUBERNETES / "conf-server.yaml").read_text())
MONITOR = yaml.safe_load((KUBERNETES / "podmonitor.yaml").read_text())
STACK = yaml.safe_load((KUBERNETES / "production-stack.yaml").read_text())["servingEngineSpec"]
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
VERSIONS = ("1.30", "1.37")
"""The first that has a `sleep` before a stop without being asked for it, and the newest."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", [DEPLOYMENT, SERVICE], ids=lambda one: one["kind"])
def test_kubernetes_accepts(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_would_notice() -> None:
    wrong = deepcopy(DEPLOYMENT)
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_service_and_monitor_find_the_pods_and_their_port() -> None:
    labels = POD["metadata"]["labels"]
    ports = [port["name"] for port in CONTAINER["ports"]]
    assert labels == DEPLOYMENT["spec"]["selector"]["matchLabels"]
    assert labels == SERVICE["spec"]["selector"] == MONITOR["spec"]["selector"]["matchLabels"]
    assert [port["targetPort"] for port in SERVICE["spec"]["ports"]] == ports
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == (ports[0], "/metrics")


def test_a_restart_is_for_the_dead_and_requests_for_the_ready() -> None:
    assert "/ready" in {route.path for route in server_router.routes}  # type: ignore[attr-defined]
    for spec in (CONTAINER, STACK):
        paths = {name: spec[name]["httpGet"]["path"] for name in spec if name.endswith("Probe")}
        assert paths == {
            "startupProbe": "/health",
            "livenessProbe": "/health",
            "readinessProbe": "/ready",
        }
        assert (
            spec["startupProbe"]["periodSeconds"] * spec["startupProbe"]["failureThreshold"] >= 3600
        )


def test_a_pod_has_time_to_drain() -> None:
    drain = parse_args(CONTAINER["args"]).shutdown_timeout
    assert drain == DRAIN_S
    wait = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = wait + drain + CUT_S + 2 * ENGINE_STOP_TIMEOUT_S + 10
    assert POD["spec"]["terminationGracePeriodSeconds"] >= needed


def test_the_chart_s_pods_drain_in_the_time_that_kubernetes_leaves_by_default() -> None:
    (model,) = STACK["modelSpec"]
    flags = parse_args(["--model", model["modelURL"], *model["vllmConfig"]["extraArgs"]])
    assert flags.shutdown_timeout + CUT_S + ENGINE_STOP_TIMEOUT_S <= 30
    assert flags.confidence_mode == "stats"


def test_the_images_are_those_of_this_version_and_run_as_their_user() -> None:
    (model,) = STACK["modelSpec"]
    image = f"conf-server:{__version__}-cuda"
    assert CONTAINER["image"] == f"{model['repository']}:{model['tag']}" == image
    user = f"USER {POD['spec']['securityContext']['runAsUser']}:"
    assert POD["spec"]["securityContext"]["runAsUser"] == STACK["securityContext"]["runAsUser"]
    assert user in (ROOT / "deploy/container/cuda.Dockerfile").read_text()
