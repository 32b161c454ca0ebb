import gzip
import json
import sys
from types import SimpleNamespace

import torch

from benchmarks.timing import peak_bytes, times, trace_steps


def test_peak_memory_counts_live_tensors_once_and_not_what_is_returned():
    x = torch.zeros(1000)  # made before: not counted

    def step():
        a = x + torch.ones_like(x)  # 4000 bytes, and 4000 for a moment
        b = a.view(10, 100)  # the same memory
        c = a.double()  # 8000 bytes
        del a, b
        d = c.float()  # 4000 bytes
        del c
        return (d,)  # at most 12000 bytes at once, 4000 of which are returned

    assert peak_bytes(step, "cpu") == 8000


def test_quantiles_are_in_order(monkeypatch):
    ticks = iter([0.0, 1.0, 0.0, 5.0, 0.0, 3.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    # seconds 1, 3, 5: linear interpolation puts the 20th percentile at 1 + 0.4 x 2
    found = times({"f": lambda: None}, "cpu", 3)["f"]
    assert [round(x, 6) for x in found] == [3.0, 1.8, 4.2]


def test_on_a_gpu_do_bench_takes_the_time(monkeypatch):
    asked = {}

    def do_bench(function, warmup, rep, quantiles):
        asked.update(rep=rep, quantiles=quantiles)
        return [4.0, 3.0, 5.0]  # milliseconds

    monkeypatch.setitem(sys.modules, "triton.testing", SimpleNamespace(do_bench=do_bench))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    ticks = iter([0.0, 0.25])  # a call takes 250 ms, so seven take 1750
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert times({"f": lambda: None}, "cuda", 7)["f"] == (4e-3, 3e-3, 5e-3)
    assert asked == {"rep": 1760, "quantiles": [0.5, 0.2, 0.8]}


def test_a_trace_names_its_steps(tmp_path):
    path = tmp_path / "trace.json.gz"
    table = trace_steps({"ours": lambda: (torch.ones(4) + 1,)}, str(path))
    assert "aten::add" in table
    assert "ours" in {event.get("name") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}
