"""One camera against many, `vidette bench --camera-counts`: scripts/test_fps_benchmark.py --model yolox_nano_416

Not a test of the suite: it is called so because readers of similar projects look for it under this name.
"""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--camera-counts", "1,2,4,8", *sys.argv[1:]]))
