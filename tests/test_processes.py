"""A process without a group is a group of one; groups of several are in `tests/evaluation/test_shared.py`."""

import pytest

from lightning_unlearn.processes import from_first, gather, rank, together, world_size


def test_alone():
    assert (rank(), world_size()) == (0, 1)
    assert gather({"a": 1}) == [{"a": 1}]
    assert together(lambda: 3) == from_first(lambda: 3) == 3


@pytest.mark.parametrize("call", [together, from_first])
def test_an_error_is_the_one_that_was_raised(call):
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 / 0)


def test_the_first_process_alone_is_asked(monkeypatch):
    from lightning_unlearn import processes

    sent = ["of the first"]
    monkeypatch.setattr(processes, "rank", lambda: 1)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes, "gather", lambda value: [value] * 2)
    monkeypatch.setattr(processes.dist, "broadcast_object_list", lambda out, src: out.__setitem__(src, sent[0]))
    assert from_first(lambda: pytest.fail("asked")) == "of the first"


def test_a_failure_elsewhere_is_named(monkeypatch):
    from lightning_unlearn import processes

    monkeypatch.setattr(processes, "world_size", lambda: 3)
    monkeypatch.setattr(processes, "gather", lambda value: [value, None, "OSError: no room"])
    with pytest.raises(RuntimeError, match="process 2 failed: OSError: no room"):
        together(lambda: 3)
