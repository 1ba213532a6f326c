"""serving/deploy, checked against the schemas of Kubernetes and against the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from repzoo_serving.configuration import configure

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ROOT = DEPLOY.parents[1]


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
    return found


def container() -> dict[str, Any]:
    (only,) = manifest("deployment")["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_manifests_are_what_kubernetes_takes(file: Path, version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (document,) = yaml.safe_load_all(file.read_text())
    if document["kind"] == "Kustomization":
        assert set(document["resources"]) == {f.name for f in MANIFESTS} - {file.name}
        return
    kubernetes_validate.validate(document, version, strict=True)
    # The check detects errors.
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**document, "spec": {"nope": 1}}, version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_puts_them_together() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes")],
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = {document["kind"] for document in yaml.safe_load_all(done.stdout)}
    assert kinds == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }


def test_they_belong_together() -> None:
    labels = manifest("deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifest("deployment")["spec"]["selector"]["matchLabels"],
        manifest("service")["spec"]["selector"],
        manifest("disruption")["spec"]["selector"]["matchLabels"],
        manifest("network")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == labels
    assert manifest("autoscaler")["spec"]["scaleTargetRef"]["name"] == "repzoo"
    (port,) = container()["ports"]
    assert manifest("service")["spec"]["ports"][0]["targetPort"] == port["name"]
    (ingress,) = manifest("network")["spec"]["ingress"]
    assert ingress["ports"][0]["port"] == port["containerPort"]
    notes = manifest("deployment")["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(port["containerPort"])
    assert f"--port {port['containerPort']} " in (DEPLOY / "Dockerfile").read_text()


def test_settings_are_those_of_the_code_and_fit_each_other() -> None:
    environ = {each["name"]: each["value"] for each in container()["env"]}
    settings = configure(environ).settings  # refuses names and values that it does not know
    assert {f"REPZOO_SERVE_{name.upper()}" for name in settings.model_fields_set} == set(environ)
    # The file of keys comes from the secret.
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    assert settings.keys == f"{mounts['keys']['mountPath']}/keys"
    assert mounts["keys"]["readOnly"]
    assert settings.threads == int(container()["resources"]["limits"]["cpu"])
    # Accepted requests complete: the pause, requests in flight, the threads and the last spans.
    pod = manifest("deployment")["spec"]["template"]["spec"]
    pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = max(settings.drain_seconds, settings.deadline_seconds + 1)
    assert pod["terminationGracePeriodSeconds"] > pause + drain + 10
    # The probe waits long enough for the server to detect a hang.
    assert container()["readinessProbe"]["timeoutSeconds"] > settings.hang_seconds


def test_paths_and_metrics_are_there(live: Any) -> None:
    server = live()
    notes = manifest("deployment")["spec"]["template"]["metadata"]["annotations"]
    probes = {
        container()[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "readiness", "liveness")
    }
    for path in (*probes, notes["prometheus.io/path"]):
        assert server.http.get(path).status_code == 200
    server.http.post("/generate", json={"model": "tiny"})
    exposed = set(re.findall(r"^(repzoo_\w+)", server.http.get("/metrics").text, re.MULTILINE))
    (rule,) = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    used = set(re.findall(r"repzoo_\w+", rule["seriesQuery"] + rule["metricsQuery"]))
    assert used
    assert used <= exposed
    (metric,) = manifest("autoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_the_image_is_built_from_what_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    kept = [
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line[:1] == "!"
    ]
    for sources in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert any(fnmatch(source, pattern) for pattern in kept)
    build = re.search(r'pip install -c constraints.txt "\.\[(.*)\]"', text)
    assert build is not None
    extras = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", extras, re.MULTILINE) for extra in build[1].split(","))
    environ = dict(re.findall(r"\b(REPZOO_SERVE_\w+)=(\S+)", text))
    assert configure(environ).settings.log == "json"
    assert re.search(r"^USER 65534", text, re.MULTILINE)


def test_a_bento_is_built_and_serves(
    tiny_package: Path,
    tmp_path: Path,
    eventually: Callable[..., None],
    unused_port: Callable[[], int],
) -> None:
    home = tmp_path / "bentoml"
    home.mkdir()
    env = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # "0" disables build isolation
    }
    built = subprocess.run(
        [sys.executable, DEPLOY / "bento.py", "--no-lock", "--models", tiny_package],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    tag = built.stdout.split()[-1]
    bento = home / "bentos" / tag.replace(":", "/")
    wheels = {f"./wheels/{wheel.name}" for wheel in (bento / "src" / "wheels").glob("*.whl")}
    requirements = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    assert len(wheels) == 2  # the server, and the client
    assert wheels < {*requirements}
    assert any(line.startswith("opentelemetry-exporter-otlp-proto-http") for line in requirements)
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text()
    assert "REPZOO_SERVE_MODELS=./models/tiny" in dockerfile
    assert re.search(r"^USER bentoml", dockerfile, re.MULTILINE)

    port = unused_port()
    words = ["-m", "bentoml", "serve", tag, "--host", "127.0.0.1", "--port", str(port)]
    env |= {"REPZOO_SERVE_MODELS": "./models/tiny"}  # as the image has it
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, *words], env=env, stdout=log, stderr=log)
    try:

        def ready() -> bool:
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready, 90)
        answer = httpx.post(f"http://127.0.0.1:{port}/generate", json={"model": "tiny"})
        assert answer.status_code == 200
    finally:
        server.terminate()
        assert server.wait(30) == 0
