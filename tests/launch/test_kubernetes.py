"""The manifests under launch/: valid by the API's schema, and in agreement with the programs that they start."""

import math
import os
import subprocess
import sys

import pytest
import yaml

from tests import ROOT
from wanstreamer_jax.cli.main import build_parser
from wanstreamer_jax.config_files import load_config, split_overrides
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.parallel.mesh import parse_mesh

FOLDER = ROOT / "launch/kubernetes"
METRICS = ROOT / "wanstreamer_jax/serve/prometheus.py"
PAGE = ROOT / "wanstreamer_jax/serve/page/protocol.js"
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
  assert args.longest <= args.drain < pod["spec"]["terminationGracePeriodSeconds"]  # every conversation may end
  timeouts = {value for name, value in ingress["metadata"]["annotations"].items() if name.endswith("-timeout")}
  assert all(args.longest < int(timeout) for timeout in timeouts)
  assert args.origin == [f"https://{rule['host']}"]
  key = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/upstream-hash-by"].removeprefix("$arg_")
  assert f'searchParams.set("{key}"' in PAGE.read_text()
  scaled = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
  assert f'"{scaled.removeprefix("wanstreamer_")}"' in METRICS.read_text()
  assert "WANSTREAMER_TOKEN" in [variable["name"] for variable in container["env"]]


# Training: launch/gke. JobSet is no core kind: its own fields are checked here, the job in it by the API's schema.

GKE = FOLDER.parent / "gke"
JOBSET = {  # the fields of jobset.x-k8s.io/v1alpha2 that are used, and their types
  "": {"apiVersion": str, "kind": str, "metadata": dict, "spec": dict},
  "spec": {"failurePolicy": dict, "replicatedJobs": list},
  "spec.failurePolicy": {"maxRestarts": int, "rules": list},
  "spec.failurePolicy.rules": {"name": str, "action": str, "onJobFailureReasons": list},
  "spec.replicatedJobs": {"name": str, "replicas": int, "template": dict},
  "spec.replicatedJobs.template": {"spec": dict},
}
CHIPS_OF_A_HOST = 4


def jobset(name: str) -> dict:
  (found,) = yaml.safe_load_all((GKE / f"{name}.yaml").read_text())
  return found


def check_fields(value: dict, path: str = "") -> None:
  fields = JOBSET[path]
  assert set(value) == set(fields), path
  for name, entry in value.items():
    inner = f"{path}.{name}".lstrip(".")
    assert type(entry) is fields[name], inner
    for item in entry if isinstance(entry, list) else [entry]:
      if inner in JOBSET:
        check_fields(item, inner)


@pytest.mark.parametrize("name", ["train", "slices"])
def test_a_job_set_is_one(name):
  found = jobset(name)
  check_fields(found)
  assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  assert [rule["action"] for rule in found["spec"]["failurePolicy"]["rules"]] == ["FailJobSet"]
  (jobs,) = found["spec"]["replicatedJobs"]
  job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": jobs["name"]}, **jobs["template"]}
  pytest.importorskip("kubernetes_validate").validate(job, VERSION, strict=True)


@pytest.mark.parametrize(("name", "slices"), [("train", 1), ("slices", 2)])
def test_a_job_set_fits_its_slices_and_the_program(name, slices):
  found = jobset(name)
  (jobs,) = found["spec"]["replicatedJobs"]
  job = jobs["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  assert jobs["replicas"] == slices
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  chips = math.prod(map(int, topology.split("x")))
  assert job["parallelism"] == job["completions"] == chips // CHIPS_OF_A_HOST
  assert container["resources"]["limits"]["google.com/tpu"] == str(CHIPS_OF_A_HOST)
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [UserError.status]}
  program, *words = [*container["command"], *container["args"]]
  assert program == "wanstreamer"
  overrides, rest = split_overrides(words)
  args = build_parser().parse_args(rest)
  path = args.config.removeprefix("/app/")
  config = load_config(ROOT / path, overrides)
  mesh = parse_mesh(config.train.mesh)
  assert math.prod(mesh.values()) == slices * chips
  assert mesh["data"] == slices
  assert config.data.batch % (mesh["data"] * mesh["fsdp"]) == 0
  chip = pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"].removeprefix("tpu-").removesuffix("-slice")
  where = f"{slices} x {chip}:{topology}" if slices > 1 else f"{chip}:{topology}"
  planned = f"| {where}, {slices * chips} chips | {config.train.mesh} | {config.data.batch}, "
  assert planned in (ROOT / "docs/scale.md").read_text()
  assert config.train.run.startswith("gs://BUCKET/")
  mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
  assert any(config.data.path.startswith(mount + "/") for mount in mounts)


def compiler_flags(accelerator: str) -> str:
  script = f". {FOLDER.parent / 'tpu_flags.sh'}; tpu_flags {accelerator}"
  return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("name", "accelerator"), [("train", "v6e-256"), ("slices", "v5p-256")])
def test_the_compiler_flags_of_a_job_set_are_those_of_the_pods(name, accelerator):
  (jobs,) = jobset(name)["spec"]["replicatedJobs"]
  environment = jobs["template"]["spec"]["template"]["spec"]["containers"][0]["env"]
  (found,) = [entry["value"] for entry in environment if entry["name"] == "LIBTPU_INIT_ARGS"]
  assert found.split() == compiler_flags(accelerator).split() != []


@pytest.mark.slow
@pytest.mark.parametrize(
  ("accelerator", "topology"), [("v5litepod-4", "v5e:2x2"), ("v5p-8", "v5p:2x2x1"), ("v6e-4", "v6e:2x2")]
)
def test_the_compiler_takes_its_flags(accelerator, topology):
  """libtpu refuses flags that it does not know, or that do not suit the chip, also where it only compiles."""
  pytest.importorskip("libtpu")
  config = ["--config=configs/nano.py", "--config.data.batch=4"]
  found = subprocess.run(
    [sys.executable, "-m", "wanstreamer_jax", "aot", "--topology", topology, "--what", "train", *config],
    env=os.environ | {"LIBTPU_INIT_ARGS": compiler_flags(accelerator)}, capture_output=True, text=True,
    cwd=ROOT,
  )  # fmt: skip
  assert found.returncode == 0, found.stderr
