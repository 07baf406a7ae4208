#!/bin/sh
# Build a TensorRT engine that takes batches: `vidette build-engine` under its old name.
#     scripts/build_batch_model.sh models/yolox_nano/model.onnx --precision fp16 --max-batch 16
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -x "$root/.venv/bin/vidette" ]; then
  exec "$root/.venv/bin/vidette" build-engine "$@"
fi
exec vidette build-engine "$@"
