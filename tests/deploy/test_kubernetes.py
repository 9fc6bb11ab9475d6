"""The manifests: what refers to what, what a pod may do, and how Triton and the archive are started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
API = {
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Service": "v1",
}
NEEDED = {
    "ConfigMap": {"data"},
    "Deployment": {"spec.selector", "spec.template", "spec.replicas"},
    "Job": {"spec.template", "spec.completions", "spec.completionMode"},
    "NetworkPolicy": {"spec.podSelector", "spec.policyTypes", "spec.ingress"},
    "Service": {"spec.selector", "spec.ports"},
}


def manifests(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text("utf-8")))


def of_kind(kind: str) -> list[Manifest]:
    return [item for path in sorted(FOLDER.glob("*.yaml")) for item in manifests(path.stem) if item["kind"] == kind]


def workloads() -> list[Manifest]:
    return [*of_kind("Deployment"), *of_kind("Job")]


def containers() -> Iterator[tuple[Manifest, Manifest]]:
    """Each pod's spec with each of its containers."""
    for workload in workloads():
        spec = workload["spec"]["template"]["spec"]
        for container in spec["containers"]:
            yield spec, container


def only(name: str, kind: str) -> Manifest:
    (found,) = [item for item in manifests(name) if item["kind"] == kind]
    return found


def test_every_manifest_has_what_its_kind_needs() -> None:
    names = set()
    for path in sorted(FOLDER.glob("*.yaml")):
        for item in manifests(path.stem):
            kind = item["kind"]
            assert item["apiVersion"] == API[kind]
            names.add((kind, item["metadata"]["name"]))
            for needed in NEEDED[kind]:
                value: Any = item
                for key in needed.split("."):
                    assert key in value, f"{path.name}: {kind} without {needed}"
                    value = value[key]
    assert len(names) == 7


def test_selectors_find_their_pods() -> None:
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in workloads()]

    def finds(labels: dict[str, str]) -> int:
        return sum(labels.items() <= pod.items() for pod in pods)

    for item in of_kind("Deployment"):
        labels = item["spec"]["selector"]["matchLabels"]
        assert labels.items() <= item["spec"]["template"]["metadata"]["labels"].items()
        assert finds(labels) == 1
    for item in of_kind("Service"):
        assert finds(item["spec"]["selector"]) == 1
    for item in of_kind("NetworkPolicy"):
        assert finds(item["spec"]["podSelector"]["matchLabels"]) == 1


def test_names_of_ports_and_volumes_are_those_of_the_containers() -> None:
    ports = {port["name"] for _, container in containers() for port in container.get("ports", ())}
    for item in of_kind("Service"):
        assert {port["targetPort"] for port in item["spec"]["ports"]} <= ports
    for item in of_kind("NetworkPolicy"):
        assert {port["port"] for rule in item["spec"]["ingress"] for port in rule["ports"]} <= ports
    for spec, container in containers():
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        own = {port["name"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how in ("httpGet", "tcpSocket"):
                assert container.get(probe, {}).get(how, {}).get("port") in {None, *own}


def test_pods_may_do_little() -> None:
    for spec, container in containers():
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert {"requests", "limits"} <= set(container["resources"])
        assert ":latest" not in container["image"]
        assert ":" in container["image"]


def test_triton_takes_no_models_from_others_and_ends_in_time() -> None:
    spec = only("triton", "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    options = dict(word.removeprefix("--").split("=") for word in container["args"] if "=" in word)
    assert container["command"] == ["tritonserver"]
    assert options["model-control-mode"] == "none"
    assert "--disable-auto-complete-config" in container["args"]
    assert options["exit-timeout-secs"] == "5"
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > waits + int(options["exit-timeout-secs"])


def test_triton_is_alive_if_it_gives_poses() -> None:
    (container,) = only("triton", "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    liveness, startup = container["livenessProbe"], container["startupProbe"]
    command = liveness["exec"]["command"]
    assert command == ["sharpose-doctor", "--server", f"http://127.0.0.1:{ports['http']}/sharpose"]
    assert liveness["timeoutSeconds"] > 10  # that the doctor may take
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600  # engines are built meanwhile
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/sharpose/ready"


def test_triton_is_reached_by_its_clients_alone() -> None:
    policy = only("triton", "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    clients, monitoring = policy["ingress"]
    (labels,) = [peer["podSelector"]["matchLabels"] for peer in clients["from"]]
    pods = only("gateway", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels.items() <= pods.items()
    assert [port["port"] for port in monitoring["ports"]] == ["metrics"]
    assert only("triton", "Service")["spec"]["type"] == "ClusterIP"
    annotations = only("triton", "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "8002"


def test_the_job_retries_a_pod_alone_but_no_usage_mistake() -> None:
    job = only("archive", "Job")["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimitPerIndex"] >= 1
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    (failed,) = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    (container,) = job["template"]["spec"]["containers"]
    assert failed == {"containerName": container["name"], "operator": "In", "values": [2]}


def test_the_jobs_pods_share_all_videos() -> None:
    job = only("archive", "Job")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    args = container["args"]
    assert args[args.index("--shard") + 1] == f"$(JOB_COMPLETION_INDEX)/{job['completions']}"
    assert job["parallelism"] == job["completions"]
