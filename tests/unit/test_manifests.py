"""Tests of the manifests: valid for all supported versions of Kubernetes, and with a linter's rules."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest

import echo.settings
import generator.settings
from support import ROOT, cluster
from support.cluster import RESTRICTED, Object, containers, image, manifest, pod_spec

FILES = sorted(path.stem for path in (ROOT / "k8s").glob("*.yaml"))
THINGS = {f"{name}: {thing['kind']} {thing['metadata']['name']}": thing for name in FILES for thing in manifest(name)}
PODS = {name: spec for name, thing in THINGS.items() if (spec := pod_spec(thing))}
CONTAINERS = {
    f"{name}: {container['name']}": (spec, container) for name, spec in PODS.items() for container in containers(spec)
}
# The APIs that both 1.20 and 1.36 serve.
SERVED = {
    "v1": {"Pod", "Service", "PersistentVolumeClaim", "ConfigMap", "Secret"},
    "apps/v1": {"Deployment"},
    "autoscaling/v1": {"HorizontalPodAutoscaler"},
    "networking.k8s.io/v1": {"NetworkPolicy"},
}
ECHO_STOP_TIMEOUT = 3
IMAGES = {program: image(program) for program in ("generator", "echo")}

NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])
SIDECAR = "pod-sidecar"
SIDECAR_VERSIONS = [f"1.{minor}" for minor in range(29, int(NEWEST.partition(".")[2]) + 1)]
VERSIONS = {name: SIDECAR_VERSIONS if name == SIDECAR else ["1.25", "1.36", NEWEST] for name in FILES}

every_file = pytest.mark.parametrize("name", FILES)
every_thing = pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS.keys())
every_pod = pytest.mark.parametrize("spec", PODS.values(), ids=PODS.keys())
every_container = pytest.mark.parametrize("spec, container", CONTAINERS.values(), ids=CONTAINERS.keys())


def test_the_files_are_those_that_scripts_manifests_writes(tmp_path: Path) -> None:
    """After a change in k8s/source, run scripts/manifests.py."""
    subprocess.run([sys.executable, ROOT / "scripts" / "manifests.py", tmp_path], check=True)
    written, kept = (
        {path.name: path.read_text() for path in folder.glob("*.yaml")} for folder in (tmp_path, ROOT / "k8s")
    )
    assert written == kept


@pytest.mark.parametrize("name, version", [(name, version) for name in FILES for version in VERSIONS[name]])
def test_a_file_is_valid_by_the_schema_of(name: str, version: str) -> None:
    """1.25 is the oldest schema in the package. A native sidecar needs 1.29."""
    for thing in manifest(name):
        kubernetes_validate.validate(thing, version, strict=True)


def test_the_sidecars_first_line_says_which_version_it_needs() -> None:
    first, *_ = (ROOT / "k8s" / f"{SIDECAR}.yaml").read_text().splitlines()
    assert "Kubernetes 1.29 or newer" in first
    for thing in manifest(SIDECAR):
        with pytest.raises(kubernetes_validate.ValidationError, match="restartPolicy"):
            kubernetes_validate.validate(thing, "1.27", strict=True)


@pytest.mark.parametrize("version, reason", [("v1.20.2", "1.29 or newer is needed"), ("v1.29.0+k3s1", "")])
def test_an_older_cluster_skips_the_sidecar(monkeypatch: pytest.MonkeyPatch, version: str, reason: str) -> None:
    answer = json.dumps({"serverVersion": {"gitVersion": version}})
    monkeypatch.setattr(cluster, "problem", lambda: "")
    monkeypatch.setattr(cluster, "kubectl", lambda *args: answer)
    assert reason in (problem := cluster.sidecar_problem.__wrapped__())
    assert bool(reason) == bool(problem)


def test_the_sidecar_differs_from_the_pod_only_in_order() -> None:
    """This test compares them, so that no reader has to."""
    (pod,), (sidecar,) = (list(filter(pod_spec, manifest(name))) for name in ("pod", SIDECAR))
    (generator,) = sidecar["spec"].pop("initContainers")
    assert generator.pop("restartPolicy") == "Always"
    sidecar["spec"]["containers"].insert(0, generator)
    assert sidecar == pod


@every_thing
def test_its_api_is_served_by_1_20_and_1_36(thing: Object) -> None:
    assert thing["kind"] in SERVED[thing["apiVersion"]]


@pytest.mark.kubernetes
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.sidecar] if name == SIDECAR else []) for name in FILES]
)
def test_a_real_api_server_accepts_it(name: str) -> None:
    """kubectl checks each field against the server's schema."""
    with cluster.namespace() as space:
        path = str(ROOT / "k8s" / f"{name}.yaml")
        applied = space.kubectl("apply", "--dry-run=server", "--validate=true", f"--filename={path}")
        assert len(applied.splitlines()) == len(manifest(name))


@pytest.mark.kubernetes
def test_a_real_api_server_refuses_an_unknown_field(tmp_path: Path) -> None:
    """Proves that the test above can fail."""
    wrong = tmp_path / "pod.yaml"
    wrong.write_text((ROOT / "k8s" / "pod.yaml").read_text().replace("failureThreshold", "failureTreshold"))
    with cluster.namespace() as space, pytest.raises(AssertionError, match="failureTreshold"):
        space.kubectl("apply", "--dry-run=server", "--validate=true", f"--filename={wrong}")


# Names and labels


@every_file
def test_no_object_is_defined_twice_or_names_a_namespace(name: str) -> None:
    things = [(thing["kind"], thing["metadata"]["name"]) for thing in manifest(name)]
    assert len(things) == len(set(things))
    assert not any("namespace" in thing["metadata"] for thing in manifest(name))


def labelled(thing: Object) -> Iterator[Object]:
    """Yield the metadata of an object, and of a Deployment's pods."""
    yield thing["metadata"]
    if thing["kind"] == "Deployment":
        yield thing["spec"]["template"]["metadata"]


@every_thing
def test_an_object_has_the_recommended_labels(thing: Object) -> None:
    for metadata in labelled(thing):
        labels = metadata["labels"]
        assert labels["app.kubernetes.io/part-of"] == "appcoup"
        assert {f"app.kubernetes.io/{key}" for key in ("name", "component", "version")} <= labels.keys()


@every_file
def test_selectors_find_pods_of_the_file_in_any_version(name: str) -> None:
    things = manifest(name)
    pods = [list(labelled(thing))[-1]["labels"] for thing in things if pod_spec(thing)]
    for thing in things:
        spec = thing["spec"]
        selector = spec.get("podSelector", spec.get("selector", {}))
        selector = selector.get("matchLabels", selector)
        if thing["kind"] == "Pod" or not selector:
            continue
        assert any(selector.items() <= labels.items() for labels in pods), thing
        assert "app.kubernetes.io/version" not in selector


@every_file
def test_ports_are_referred_to_by_name_and_exist(name: str) -> None:
    """This holds for Services and for a NetworkPolicy's own ports. Ports elsewhere, such as DNS, are numbers."""
    things = manifest(name)
    names = {
        (thing["metadata"]["name"], port["name"])
        for thing in things
        for container in containers(pod_spec(thing) or {"containers": []})
        for port in container.get("ports", [])
    }
    for thing in things:
        if thing["kind"] == "Service":
            assert {(thing["metadata"]["name"], port["targetPort"]) for port in thing["spec"]["ports"]} <= names
            assert all(port["name"] for port in thing["spec"]["ports"])
        if thing["kind"] == "NetworkPolicy":
            own = [port["port"] for rule in thing["spec"]["ingress"] for port in rule["ports"]]
            assert {(thing["metadata"]["name"], port) for port in own} <= names
            assert set(thing["spec"]["policyTypes"]) == {"Ingress", "Egress"}


@every_thing
def test_a_policy_that_allows_dns_allows_openshifts_too(thing: Object) -> None:
    """OpenShift applies a policy to the port of the DNS pods, 5353, and not to the Service's port 53."""
    if thing["kind"] == "NetworkPolicy":
        for rule in thing["spec"]["egress"]:
            asked = {(port["port"], port["protocol"]) for port in rule.get("ports", []) if "protocol" in port}
            assert asked in (set(), {(port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")})


@every_container
def test_echo_is_ready_even_if_its_numbers_are_old(spec: Object, container: Object) -> None:
    """All replicas have one source. If its loss made them unready, no replica would serve."""
    if container["image"] == IMAGES["echo"]:
        assert {"name": "ECHO_STALE", "value": "0"} in container["env"]


@every_file
def test_objects_that_a_file_refers_to_are_in_it(name: str) -> None:
    """These are an autoscaler's Deployment and a volume's claim."""
    things = manifest(name)
    there = {(thing["kind"], thing["metadata"]["name"]) for thing in things}
    for thing in things:
        if thing["kind"] == "HorizontalPodAutoscaler":
            target = thing["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in there
        for volume in (pod_spec(thing) or {}).get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there


# Pods


@every_pod
def test_a_pod_is_restricted(spec: Object) -> None:
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    allowed = {"emptyDir", "persistentVolumeClaim", "secret", "configMap"}
    assert all(len(allowed & volume.keys()) == 1 for volume in spec["volumes"])


@every_pod
def test_any_user_id_may_be_chosen(spec: Object) -> None:
    """OpenShift refuses ids outside its range. Pods with a claim set an fsGroup; see docs/couplings.md."""
    for context in [spec["securityContext"], *(each["securityContext"] for each in containers(spec))]:
        assert not {"runAsUser", "runAsGroup", "supplementalGroups"} & context.keys()
    claims = any("persistentVolumeClaim" in volume for volume in spec["volumes"])
    assert claims == ("fsGroup" in spec["securityContext"])


@every_pod
def test_volumes_are_bounded_and_all_in_use(spec: Object) -> None:
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert all(volume["emptyDir"].get("sizeLimit") for volume in volumes.values() if "emptyDir" in volume)
    assert {mount["name"] for each in containers(spec) for mount in each["volumeMounts"]} == volumes.keys()


@every_pod
def test_the_grace_period_is_enough_and_short(spec: Object) -> None:
    """A hung program is replaced only after the grace period."""
    grace = spec["terminationGracePeriodSeconds"]
    for container in containers(spec):
        command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        needed = int(command[1]) + (ECHO_STOP_TIMEOUT if container["image"] == IMAGES["echo"] else 0)
        assert needed < grace <= 8


@every_thing
def test_a_deployment_is_replaced_without_a_gap(thing: Object) -> None:
    """The generator is the exception, because its file has one writer."""
    if thing["kind"] != "Deployment":
        return
    images = {container["image"] for container in thing["spec"]["template"]["spec"]["containers"]}
    if IMAGES["generator"] in images:
        assert (thing["spec"]["replicas"], thing["spec"]["strategy"]) == (1, {"type": "Recreate"})
    else:
        assert thing["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert all("preStop" in each["lifecycle"] for each in thing["spec"]["template"]["spec"]["containers"])


# Containers


@every_container
def test_a_container_is_restricted(spec: Object, container: Object) -> None:
    assert container["securityContext"] == RESTRICTED


@every_container
def test_an_image_has_a_tag_and_may_be_on_the_node(spec: Object, container: Object) -> None:
    assert container["image"] in IMAGES.values()
    assert container["imagePullPolicy"] == "IfNotPresent"


@every_container
def test_a_container_has_requests_and_limits(spec: Object, container: Object) -> None:
    assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys() == {"cpu", "memory"}


@every_container
def test_a_container_has_three_probes(spec: Object, container: Object) -> None:
    """The liveness probe does not ask for readiness, else another program's fault would replace this one."""
    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
    asked = {kind: probe.get("httpGet") or probe["exec"]["command"] for kind, probe in probes.items()}
    assert asked["startup"] == asked["liveness"] != asked["readiness"]
    if container["image"] == IMAGES["echo"]:
        ports = {port["name"] for port in container["ports"]}
        assert {asked[kind]["path"] for kind in ("startup", "liveness")} == {"/healthz"}
        assert asked["readiness"]["path"] == "/readyz"
        assert {asked[kind]["port"] for kind in asked} <= ports
    else:
        assert "GENERATOR_HEARTBEAT" in asked["liveness"][-1]
        assert not any("python" in command for command in asked.values())


@every_container
def test_a_hung_program_is_replaced_within_20_seconds(spec: Object, container: Object) -> None:
    """The generator's heartbeat is old after 5 s. Echo must answer the probe."""
    probe = container["livenessProbe"]
    silent = 5 if container["image"] == IMAGES["generator"] else probe["timeoutSeconds"]
    tries = probe["periodSeconds"] * probe["failureThreshold"]
    assert silent + tries + spec["terminationGracePeriodSeconds"] <= 20


@every_container
def test_variables_are_settings_of_the_program(spec: Object, container: Object) -> None:
    program = echo.settings if container["image"] == IMAGES["echo"] else generator.settings
    known = {each.variable for each in program.Settings.declared}
    assert {each["name"] for each in container["env"]} <= known


@every_container
def test_only_the_generator_may_write_the_data(spec: Object, container: Object) -> None:
    (data,) = [mount for mount in container["volumeMounts"] if mount["name"] == "data"] or [{}]
    assert bool(data.get("readOnly")) == (bool(data) and container["image"] != IMAGES["generator"])
