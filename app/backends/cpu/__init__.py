"""The CPU backend. PyAV decodes, OpenVINO or ONNX Runtime infers."""

from __future__ import annotations

import sys
from typing import Any, cast

# OpenVINO reports every model that it reads to its maker's analytics and leaves an id in the home directory when this
# package can be imported. A camera service does neither; OpenVINO takes the failed import for "do not".
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
