"""The part of kustomize that deploy/k8s uses, so that its overlays are rendered where there is no kustomize.

Resources, components, generated config maps, strategic merge patches, images and the namespace. A kind of entry that is
not known here is an error, never skipped. `tests/unit/test_k8s.py` holds it equal to the real one where that is there.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Manifest: TypeAlias = dict[str, Any]
HASH = "0000000000"  # kustomize's is made of the content
# Lists that are merged by a key of their elements; every other list is replaced.
MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
CLUSTER_WIDE = {"Namespace"}
KNOWN = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "configMapGenerator",
    "patches",
    "images",
}


def render(folder: Path) -> list[Manifest]:
    """Every manifest that `kubectl kustomize FOLDER` prints, in the order of the files."""
    return _render(folder, [])


def _render(folder: Path, base: list[Manifest]) -> list[Manifest]:
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    unknown = set(plan) - KNOWN
    assert not unknown, f"{folder}: {unknown} is not known here"
    found = list(base)
    for name in plan.get("resources", ()):
        path = folder / name
        found += _render(path, []) if path.is_dir() else _documents(path)
    for name in plan.get("components", ()):
        found = _render(folder / name, found)
    for generator in plan.get("configMapGenerator", ()):
        found = _with_config_map(found, folder, generator)
    for patch in plan.get("patches", ()):
        assert set(patch) == {"path"}, f"{folder}: {patch} is not known here"
        found = [_patched(manifest, change) for manifest in found for change in _documents(folder / patch["path"])]
    for image in plan.get("images", ()):
        assert set(image) <= {"name", "newName", "newTag"}, f"{folder}: {image} is not known here"
        found = [_with_image(manifest, image) for manifest in found]
    if "namespace" in plan:
        found = [_in_namespace(manifest, plan["namespace"]) for manifest in found]
    return found


def _documents(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def _patched(manifest: Manifest, change: Manifest) -> Manifest:
    merged: Manifest = _merged(manifest, change) if _identity(manifest) == _identity(change) else manifest
    return merged


def _merged(old: Any, new: Any, name: str = "") -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        both = {key: _merged(old[key], new[key], key) if key in old else copy.deepcopy(new[key]) for key in new}
        return {**old, **both}
    if isinstance(old, list) and isinstance(new, list) and name in MERGE_KEYS:
        key = MERGE_KEYS[name]
        changes = {element[key]: element for element in new}
        kept = [_merged(element, changes.pop(element[key], {})) for element in old]
        return [*copy.deepcopy(list(changes.values())), *kept]
    return copy.deepcopy(new)


def _with_config_map(manifests: list[Manifest], folder: Path, generator: dict[str, Any]) -> list[Manifest]:
    assert set(generator) == {"name", "files"}, f"{folder}: {generator} is not known here"
    name = f"{generator['name']}-{HASH}"
    data = {file: (folder / file).read_text(encoding="utf-8") for file in generator["files"]}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    return [*(_renamed(manifest, generator["name"], name) for manifest in manifests), made]


def _renamed(value: Any, old: str, new: str) -> Any:
    """Every `configMap: {name: old}` inside, with the new name."""
    if isinstance(value, list):
        return [_renamed(each, old, new) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _renamed(each, old, new) for key, each in value.items()}
    if isinstance(changed.get("configMap"), dict) and changed["configMap"].get("name") == old:
        changed["configMap"]["name"] = new
    return changed


def _with_image(value: Any, image: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_with_image(each, image) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _with_image(each, image) for key, each in value.items()}
    name, _, tag = str(changed.get("image", "")).rpartition(":")
    if name == image["name"]:
        changed["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    return changed


def _in_namespace(manifest: Manifest, namespace: str) -> Manifest:
    if manifest["kind"] in CLUSTER_WIDE:
        return manifest
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
