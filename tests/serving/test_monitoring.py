"""The alerts and the dashboard in serving/deploy/monitoring, against a server's real metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from repzoo.secrets_file import add_secret
from repzoo_serving.telemetry.metrics import FAMILIES

MONITORING = Path(__file__).parents[2] / "serving" / "deploy" / "monitoring"
#: Labels that Prometheus adds when it scrapes.
SCRAPED = {"job", "instance"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, in Debian's package prometheus"
)


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    document = json.loads((MONITORING / "dashboard.json").read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])


def promtool(*arguments: object) -> str:
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_metric_and_label_is_in_the_metrics_of_a_server(live: Any, tmp_path: Path) -> None:
    key = add_secret(tmp_path / "keys", "app", prefix="rz_")
    server = live(keys=str(tmp_path / "keys"), public=("metrics",))
    headers = {"Authorization": f"Bearer {key}"}
    for model, status in (("tiny", 200), ("nope", 404)):
        response = server.http.post("/generate", json={"model": model}, headers=headers)
        assert response.status_code == status
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        labels[family.name + ("_total" if family.type == "counter" else "")] = set()
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    used = set()
    for expression in expressions():
        names = set()
        for name, selector in re.findall(r"\b(repzoo_\w+)(?:\{(.*?)\})?", expression):
            assert name in labels, expression
            names.add(name)
            selected = set(re.findall(r"(\w+)\s*[=!]", selector)) - SCRAPED
            # No client has hung up, so that counter has no samples.
            assert selected <= labels[name] or not labels[name], expression
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \((.*?)\)", expression))))
        assert grouped <= SCRAPED.union(*(labels[name] for name in names)), expression
        used |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    # Nothing that a server measures is left out, in the dashboard, the alerts or the reference.
    measured = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in labels}
    assert {name for name in measured if name.startswith("repzoo_")} == used
    assert {family.name for family in FAMILIES} == used
    for family in FAMILIES:
        name = f"{family.name}_count" if family.type == "histogram" else family.name
        assert labels[name] in (set(), {*family.labels, "worker"})


def test_alerts_say_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "action"}


def test_the_guide_has_every_alert() -> None:
    text = (MONITORING.parents[2] / "docs" / "how-to" / "serve" / "monitor-a-server.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert documented == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


def test_panels_do_not_overlap_and_have_a_description() -> None:
    seen = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & seen, panel["title"]
        assert at["x"] + at["w"] <= 24
        seen |= cells
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "config", "prometheus.yaml")
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yaml")


@needs_promtool
def test_prometheus_can_parse_every_panel(tmp_path: Path) -> None:
    replaced = (e.replace("$__rate_interval", "5m") for e in expressions())
    records = [{"record": f"panel_{i}", "expr": each} for i, each in enumerate(replaced)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": records}]}))
    assert f"{len(records)} rules found" in promtool("check", "rules", file)
