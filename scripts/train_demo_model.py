"""Train the detector that ships with Vidette, on scenes that it draws itself, on one CPU core.

python -m venv train-venv
train-venv/bin/pip install torch numpy opencv-python-headless av onnx onnxruntime
train-venv/bin/python scripts/train_demo_model.py            train, export, evaluate
train-venv/bin/python scripts/train_demo_model.py --evaluate only evaluate models/vidette-demo/model.onnx
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the scenes come from the package, which need not be installed

from app.simulator.scenes import CLASS_NAMES  # noqa: E402
from app.types import FloatArray  # noqa: E402
from scripts.demo_model.data import Stream, evaluation_samples  # noqa: E402
from scripts.demo_model.evaluation import Infer, average_precision, detect  # noqa: E402

SIZE = 320
PEAK_RATE, WEIGHT_DECAY, WARM_UP_STEPS, EMA_DECAY = 3e-3, 0.02, 100, 0.999


def learning_rate(step: int, steps: int) -> float:
    """Rises for the warm-up, then falls along a cosine to a fiftieth."""
    if step < WARM_UP_STEPS:
        return PEAK_RATE * (step + 1) / WARM_UP_STEPS
    done = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(path: Path, *, steps: int, batch: int, seed: int, threads: int, bf16: bool, checkpoint: Path | None) -> None:
    """Train from nothing and write the averaged weights to `path` as ONNX."""
    import torch

    from scripts.demo_model.export import export
    from scripts.demo_model.loss import detection_loss
    from scripts.demo_model.network import DemoDetector, decode, grid

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    torch.manual_seed(seed)
    network = DemoDetector(len(CLASS_NAMES)).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network).eval()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE)
    count = sum(p.numel() for p in network.parameters())
    print(f"{count:,} parameters, {steps} steps of {batch} pictures", flush=True)
    stream, began, recent = Stream(seed=seed, size=SIZE), time.monotonic(), []
    for step in range(steps):
        data = stream.batch(batch)
        images = torch.from_numpy(data.images).contiguous(memory_format=torch.channels_last)
        cells, strides = grid(*images.shape[2:])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            raw = network(images)
        raw = raw.float()
        boxes, classes = torch.from_numpy(data.boxes), torch.from_numpy(data.classes)
        loss = detection_loss(raw, decode(raw, cells, strides), (cells + 0.5) * strides, strides, boxes, classes)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        _average(averaged, network, min(EMA_DECAY, (step + 1) / (step + 10)))
        recent.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            spent = time.monotonic() - began
            print(f"step {step + 1:5d}  loss {np.mean(recent):6.3f}  {spent:5.0f} s", flush=True)
            recent = []
        if checkpoint is not None and (step + 1) % 500 == 0:
            torch.save(averaged.state_dict(), checkpoint)
    export(averaged, path, classes=CLASS_NAMES, size=SIZE)


def _average(averaged, network, decay: float) -> None:  # type: ignore[no-untyped-def]
    """Follow the weights at a distance: their moving average detects better than any of them."""
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def evaluate(path: Path) -> None:
    """Print AP on scenes that were never trained on, and the time of one picture on one core."""
    infer, runtime = open_model(path)
    samples = list(evaluation_samples())
    found = [detect(infer, sample, size=SIZE) for sample in samples]
    spent = []
    for _ in range(50):
        began = time.perf_counter()
        infer(np.zeros((1, 3, SIZE, SIZE), np.float32))
        spent.append(time.perf_counter() - began)
    table = average_precision(samples, found, len(CLASS_NAMES))
    print(f"{len(samples)} pictures of held-out scenes, {path.stat().st_size / 1e6:.2f} MB")
    print(f"{'':10s} {'objects':>8s} {'AP':>7s} {'AP50':>7s} {'AP75':>7s}")
    for k, name in enumerate(CLASS_NAMES):
        count = sum(int((s.class_ids == k).sum()) for s in samples)
        print(f"{name:10s} {count:8d} {table[k].mean():7.3f} {table[k, 0]:7.3f} {table[k, 5]:7.3f}")
    total = sum(len(s.class_ids) for s in samples)
    print(f"{'all':10s} {total:8d} {table.mean():7.3f} {table[:, 0].mean():7.3f} {table[:, 5].mean():7.3f}")
    print(f"one picture, one thread, {runtime}: median {np.median(spent) * 1000:.2f} ms")


def open_model(path: Path) -> tuple[Infer, str]:
    """The model in OpenVINO where that is installed, else in ONNX Runtime; one thread."""
    try:
        import openvino
    except ImportError:
        return _open_onnxruntime(path)
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(str(path), "CPU", options).create_infer_request()

    def infer(images: FloatArray) -> FloatArray:
        return np.array(request.infer({0: images})[0])

    return infer, f"OpenVINO {openvino.__version__.split('-')[0]} f32"


def _open_onnxruntime(path: Path) -> tuple[Infer, str]:
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def infer(images: FloatArray) -> FloatArray:
        return np.asarray(session.run(None, {"images": images})[0])

    return infer, f"ONNX Runtime {onnxruntime.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or evaluate the detector that ships with Vidette.")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "vidette-demo" / "model.onnx")
    parser.add_argument("--evaluate", action="store_true", help="evaluate the model, train nothing")
    parser.add_argument("--steps", type=int, default=4200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="half the time on a CPU with AVX-512 BF16, more elsewhere")
    parser.add_argument("--checkpoint", type=Path, help="write the weights here every 500 steps")
    options = parser.parse_args()
    if not options.evaluate:
        options.model.parent.mkdir(parents=True, exist_ok=True)
        train(
            options.model,
            steps=options.steps,
            batch=options.batch,
            seed=options.seed,
            threads=options.threads,
            bf16=options.bf16,
            checkpoint=options.checkpoint,
        )
    evaluate(options.model)


if __name__ == "__main__":
    main()
