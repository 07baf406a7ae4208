"""The trained network as one ONNX file, checked against the network it came from."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator

from .network import DemoDetector, Exported

OPSET = 17


def export(network: DemoDetector, path: Path, *, classes: tuple[str, ...], size: int) -> None:
    """Write the ONNX file: `images` f32[batch, 3, size, size] to `output` f32[batch, anchors, 5 + classes].

    Raises AssertionError when the file does not compute what the network computes.
    """
    model = Exported(network.float()).eval()
    with warnings.catch_warnings():
        # The older exporter folds the batch normalisations and writes opset 17; it warns that it is the older one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, size, size),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["output"],
            dynamic_axes={"images": {0: "batch"}, "output": {0: "batch"}},
        )
    graph = onnx.load(str(path))
    dims = graph.graph.output[0].type.tensor_type.shape.dim
    dims[1].dim_value = sum((size // stride) ** 2 for stride in (8, 16, 32))
    dims[2].dim_value = 5 + len(classes)
    names = json.dumps(dict(enumerate(classes)))
    facts = {"family": "yolox", "names": names, "stride": "[8, 16, 32]", "licence": "Apache-2.0", "author": "Vidette"}
    onnx.helper.set_model_props(graph, facts)
    graph.graph.name, graph.doc_string = "vidette-demo", "Detects the drawn figures of Vidette's demo scenes."
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))
    _check(path, model, size)


def _check(path: Path, model: Exported, size: int) -> None:
    """The file equals the network, and a batch equals its singles."""
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, size, size)).astype(np.float32)
    run = ReferenceEvaluator(str(path))
    batch = run.run(None, {"images": images})[0]
    singles = np.concatenate([run.run(None, {"images": image[None]})[0] for image in images])
    with torch.no_grad():
        wanted = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(batch, singles, atol=1e-4)
    np.testing.assert_allclose(batch, wanted, atol=2e-3)
