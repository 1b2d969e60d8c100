"""The manifests under launch/kubernetes: valid by the API's schema, and in agreement with the program they start."""

import pathlib

import pytest
import yaml

from wanstreamer_jax.cli import build_parser

FOLDER = pathlib.Path(__file__).parent.parent / "launch/kubernetes"
METRICS = FOLDER.parent.parent / "wanstreamer_jax/serve/metrics.py"
VERSION = "1.33"  # of Kubernetes


def documents(name: str) -> list[dict]:
  return list(yaml.safe_load_all((FOLDER / name).read_text()))


def deployment(kind: str) -> dict:
  (found,) = documents(f"{kind}.yaml")
  return found


@pytest.mark.parametrize("name", ["serve.yaml", "gpu.yaml", "tpu.yaml"])
def test_the_schema_holds(name):
  validate = pytest.importorskip("kubernetes_validate").validate
  for document in documents(name):
    validate(document, VERSION, strict=True)


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_deployment_fits_the_service_and_the_program(kind):
  found, (service, ingress, budget, scaler) = deployment(kind), documents("serve.yaml")
  pod = found["spec"]["template"]
  labels, (container,) = pod["metadata"]["labels"], pod["spec"]["containers"]
  assert service["spec"]["selector"].items() <= labels.items()
  assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
  assert scaler["spec"]["scaleTargetRef"]["name"] == found["metadata"]["name"]
  (port,) = service["spec"]["ports"]
  (rule,) = ingress["spec"]["rules"]
  backend = rule["http"]["paths"][0]["backend"]["service"]
  assert (backend["name"], backend["port"]["name"]) == (service["metadata"]["name"], port["name"])
  assert port["targetPort"] in [p["name"] for p in container["ports"]]
  args = build_parser().parse_args(["serve", "--host", "0.0.0.0", *container["args"]])
  assert container["ports"][0]["containerPort"] == args.port
  assert args.drain < pod["spec"]["terminationGracePeriodSeconds"]
  assert args.token == "$(TOKEN)"
  assert args.origin == [f"https://{rule['host']}"]
  scaled = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
  assert f'"{scaled.removeprefix("wanstreamer_")}"' in METRICS.read_text()
  assert "TOKEN" in [variable["name"] for variable in container["env"]]
