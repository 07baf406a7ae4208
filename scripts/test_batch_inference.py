"""Frame by frame against batches, `vidette bench --sweep`: scripts/test_batch_inference.py --model yolox_nano_416

Not a test of the suite: it is called so because readers of similar projects look for it under this name.
"""

from __future__ import annotations

import sys

from app.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--sweep", *sys.argv[1:]]))
