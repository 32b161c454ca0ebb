"""Measurements; those with a command run as `python -m benchmarks.<name>`, all of them by `make bench`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read with torch: else PyTorch's profiler prints two lines a use
