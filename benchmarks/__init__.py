"""Measurements, each a command: `python -m benchmarks.kernels --help`, `python -m benchmarks.compile --help`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read with torch: else PyTorch's profiler prints two lines a use
