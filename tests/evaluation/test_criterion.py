import math

import pytest

from lightning_unlearn.evaluation.criterion import Criterion

CRITERION = Criterion("utility", at_least={"efficacy": 0.9}, at_most={"leak": 0.5})


def scores(utility, efficacy=0.9, leak=0.5):
    return {"utility": utility, "efficacy": efficacy, "leak": leak}


def test_models_rank_by_the_score_where_bounds_are_reached_and_by_how_far_they_are_off_elsewhere():
    best_first = [
        (scores(0.8), 0.8),
        (scores(0.2, efficacy=1.0, leak=0.0), 0.2),
        (scores(-3.0), 0.0),
        (scores(0.99, efficacy=0.85), -0.05),
        (scores(0.99, efficacy=0.85, leak=0.6), -0.15),
        (scores(0.0, efficacy=0.5), -0.4),
    ]
    values = [CRITERION(found) for found, _ in best_first]
    assert values == pytest.approx([expected for _, expected in best_first])
    assert values == sorted(values, reverse=True)


def test_nan_stays_nan_which_lightning_ranks_last():
    assert math.isnan(CRITERION(scores(0.5, efficacy=math.nan)))
    assert math.isnan(CRITERION(scores(math.nan)))


def test_a_misspelt_score_is_named():
    with pytest.raises(ValueError, match=r"must name scores .*, got \['efficacy', 'leak'\]; there are: \['utility'\]"):
        CRITERION({"utility": 0.5})


def test_scores_are_checked_before_there_are_any():
    criterion = Criterion("utility", at_least={"efficacy": 0.9})
    criterion.check(["efficacy", "utility", "other"])
    with pytest.raises(ValueError, match=r"criterion must name scores of this evaluation, got \['efficacy'\]"):
        criterion.check(["utility"])
