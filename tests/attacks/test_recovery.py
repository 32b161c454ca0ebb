from __future__ import annotations

import pytest

from lightning_unlearn.attacks.recovery import recovery


def curve(*values: float) -> list[dict]:
    return [{"x": x, "k": value} for x, value in enumerate(values)]


def test_share_beyond_the_retrained_model_at_the_worst_point():
    curves = {"unlearned": curve(0.2, 0.5, 0.9), "start": curve(0.9, 1.0, 1.0), "retrained": curve(0.1, 0.1, 0.7)}
    found = recovery(curves, "k")
    # known: 0.8, 0.9 and 0.3 more than the retrained model; shares (0.5 - 0.1) / 0.9 and (0.9 - 0.7) / 0.9
    assert found["share"] == pytest.approx(0.4 / 0.9)
    assert found["at"] == 1
    assert found["left"] == pytest.approx((0.2 - 0.1) / 0.9)
    assert found["retrained"] == pytest.approx((0.7 - 0.1) / 0.9)
    assert found["verdict"] == "exposed"


def test_without_a_retrained_model_what_comes_back_of_what_is_gone():
    found = recovery({"unlearned": curve(0.2, 0.3), "start": curve(1.0)}, "k")
    assert found["share"] == pytest.approx(0.1 / 0.8)
    assert (found["left"], found["retrained"], found["verdict"]) == (0.0, None, "holds")


def test_nothing_is_clipped():
    curves = {"unlearned": curve(0.0, 0.0), "start": curve(0.9), "retrained": curve(0.1, 0.3)}
    assert recovery(curves, "k")["share"] == pytest.approx(-0.3 / 0.8)
    curves["unlearned"] = curve(0.0, 1.0)
    curves["retrained"] = curve(0.1, 0.1)
    assert recovery(curves, "k")["share"] == pytest.approx(0.9 / 0.8)


def test_a_difference_within_its_noise_is_none():
    def with_error(points: list[dict], error: float) -> list[dict]:
        return [{**point, "k_error": error} for point in points]

    ours, start, floor = curve(0.1, 0.5), curve(1.0), curve(0.1, 0.2)
    # 0.3 above the retrained model: two standard errors of the difference are 2 * hypot(0.12, 0.09) = 0.3
    for error, verdict in ((0.12, "unclear"), (0.119, "exposed")):
        curves = {"unlearned": with_error(ours, error), "start": start, "retrained": with_error(floor, 0.09)}
        assert recovery(curves, "k")["verdict"] == verdict
    # without a retrained model 0.4 above itself before: 2 * hypot(0.2, 0.2) = 0.57
    alone = {"unlearned": with_error(ours, 0.2), "start": start}
    assert recovery(alone, "k")["verdict"] == "unclear"


def test_the_retrained_model_itself_holds():
    curves = {"unlearned": curve(0.1, 0.6), "start": curve(1.0), "retrained": curve(0.1, 0.6)}
    found = recovery(curves, "k")
    assert (found["share"], found["verdict"]) == (0.0, "holds")


@pytest.mark.parametrize(
    "curves",
    [
        {"unlearned": curve(0.1, 0.9)},
        {"start": curve(1.0)},
        {"unlearned": curve(0.1), "start": curve(1.0)},  # stopped before the attack began
        {"unlearned": curve(0.1, 0.9), "start": curve(0.15), "retrained": curve(0.1, 0.2)},  # knew nothing
        {"unlearned": curve(0.1, 0.9), "start": curve(1.0), "retrained": curve(0.1)},  # retrained one stopped
    ],
)
def test_what_cannot_be_told(curves):
    assert recovery(curves, "k") is None
