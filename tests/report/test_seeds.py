import json
import math

import pytest

from lightning_unlearn.report.seeds import Spread, spread, spread_over_runs


def run(folder, scores):
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"before": {}, "after": scores}))
    return folder


def test_mean_and_spread_over_runs(tmp_path):
    runs = [
        run(tmp_path / "seed1", {"a": 1.0, "b": 5.0}),
        run(tmp_path / "seed2", {"a": 2.0, "b": math.nan}),
        run(tmp_path / "seed3", {"a": 6.0}),
    ]
    found = spread_over_runs(runs)
    assert found.keys() == {"a", "b"}
    # mean 3, squared distances 4 + 1 + 9 over n - 1 = 2
    assert found["a"] == pytest.approx(Spread(3.0, math.sqrt(7.0), 3))
    assert found["b"][::2] == (5.0, 1)
    assert math.isnan(found["b"].deviation)
    assert spread([0.25, 0.25]) == Spread(0.25, 0.0, 2)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="runs must name one run folder at least, got none"):
        spread_over_runs([])
    with pytest.raises(ValueError, match=r'every run must have scores of the stage "retrained", got none in .*seed1'):
        spread_over_runs([run(tmp_path / "seed1", {"a": 1.0})], stage="retrained")
