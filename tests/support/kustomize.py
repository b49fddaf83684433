"""What `kubectl kustomize` makes of the folders of deploy/kubernetes, as far as they use it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Resource = dict[str, Any]
KNOWN = {"apiVersion", "kind", "resources", "images", "patches", "configMapGenerator", "generatorOptions"}


def build(folder: Path) -> list[Resource]:
    """The resources of a folder, patched."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= KNOWN
    resources: list[Resource] = []
    for name in kustomization.get("resources", ()):
        path = folder / name
        resources += build(path) if path.is_dir() else [*yaml.safe_load_all(path.read_text())]
    resources += [_config_map(folder, each) for each in kustomization.get("configMapGenerator", ())]
    resources = copy.deepcopy(resources)
    for patch in kustomization.get("patches", ()):
        kind, name = patch["target"]["kind"], patch["target"]["name"]
        (index,) = (
            at
            for at, each in enumerate(resources)
            if each["kind"] == kind and each["metadata"]["name"] == name
        )
        resources[index] = jsonpatch.apply_patch(resources[index], yaml.safe_load(patch["patch"]))
    images = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in kustomization.get("images", ())}
    for container in containers(resources):
        name = container["image"].partition(":")[0]
        container["image"] = images.get(name, container["image"])
    return resources


def _config_map(folder: Path, generator: dict[str, Any]) -> Resource:
    data = {name: (folder / name).read_text() for name in generator["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def containers(resources: list[Resource]) -> list[dict[str, Any]]:
    """Those of all Deployments, the ones that run first included."""
    found = []
    for each in resources:
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            found += [*pod.get("initContainers", ()), *pod["containers"]]
    return found
