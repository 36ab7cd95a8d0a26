"""Points of a search: repeatable, inside the space, blind to what comes later, and better than chance."""

import itertools

import numpy as np
import pytest

from nan_merge.methods.search_space import Dimension, Search
from nan_merge.selection.sampling import Outcome, propose

A, B, C = "coefficients.constant.value", "preprocess.trim.density", "combine.disjoint_sum.elect"
BOX = (Dimension(A, (), 0.0, 2.0, start=0.3), Dimension(B, (), 0.01, 1.0, log=True, start=0.2))
KINDS = ("sobol", "tpe", "cma_es")


def quality(point):
    return -((point[A] - 1.5) ** 2) - (point[B] - 0.6) ** 2


def run(search, budget, experts=(), judge=quality):
    """Return the points of a whole search, each asked for as a job does: with the scores of earlier rounds alone."""
    points, scores = [], []
    for number in range(1, budget + 1):
        known = scores[: len(search.earlier(number))]
        points.append(propose(search, number, experts, [Outcome(score) for score in known])[-1])
        scores.append(judge(points[-1]))
    return points, scores


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_is_repeatable_and_another_seed_gives_other_points(kind):
    first, again, other = (run(Search(kind, BOX, seed=seed, batch=4), 12)[0] for seed in (0, 0, 1))
    assert first == again
    assert first[1:] != other[1:]
    assert len({tuple(point.values()) for point in first}) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_points_lie_in_the_space(kind):
    for point in run(Search(kind, BOX, batch=4), 20)[0]:
        assert 0 <= point[A] <= 2 and 0.01 <= point[B] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_budget_adds_trials_and_moves_none(kind):
    search = Search(kind, BOX, batch=4)
    assert run(search, 16)[0][:10] == run(search, 10)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_all_earlier_points_come_out_again(kind):
    search = Search(kind, BOX, batch=4)
    points, scores = run(search, 11)
    assert propose(search, 11, (), [Outcome(score) for score in scores[:8]]) == points


@pytest.mark.parametrize("kind", ["tpe", "cma_es"])
def test_a_search_starts_with_the_method_and_uses_what_it_learned(kind):
    search = Search(kind, BOX, batch=4)
    points, scores = run(search, 48)
    assert points[0] == {A: 0.3, B: 0.2}
    assert np.mean(scores[-12:]) > np.mean(scores[:12]) + 0.2
    assert max(scores) > -0.05
    other = run(search, 48, judge=lambda point: -quality(point))[0]
    assert other[:4] == points[:4] and other[12:] != points[12:]


def test_sobol_fills_the_space_more_evenly_than_chance():
    points = run(Search("sobol", (Dimension(A, (), 0.0, 1.0), Dimension(B, (), 0.0, 1.0))), 16)[0]
    cells = {(int(4 * point[A]), int(4 * point[B])) for point in points}
    assert len(cells) == 16


def test_lists_and_whole_numbers_are_drawn_as_they_are():
    space = (Dimension(C, ("weighted", "unweighted")), Dimension("preprocess.drop.seed", (), 0, 3, integer=True))
    for kind in ("sobol", "tpe"):
        points = run(Search(kind, space, batch=4), 32, judge=lambda point: point["preprocess.drop.seed"])[0]
        assert {tuple(point.values()) for point in points} >= {*itertools.product(("weighted", "unweighted"), (3,))}
        assert all(type(point["preprocess.drop.seed"]) is int and 0 <= point["preprocess.drop.seed"] <= 3 for point in points)


@pytest.mark.parametrize("kind", KINDS)
def test_one_number_for_each_expert(kind):
    search = Search(kind, (Dimension("coefficients.multiples.values", (), 0.0, 4.0, start=1.0, each=True),), batch=6)
    goal = {"movie": 2.0, "crowd": 0.5, "a b": 1.0}

    def judge(point):
        return -sum((value - goal[expert]) ** 2 for expert, value in point["coefficients.multiples.values"].items())

    points, scores = run(search, 48, tuple(goal), judge)
    assert all(list(point["coefficients.multiples.values"]) == list(goal) for point in points)
    if kind != "sobol":
        assert points[0]["coefficients.multiples.values"] == dict.fromkeys(goal, 1.0)
        assert max(scores) > scores[0] + 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_are_drawn_in_their_logarithm(kind):
    """In the logarithm half of the numbers from 1 to 1023 lie below 32; evenly drawn, three of a hundred would."""
    space = (Dimension("preprocess.drop.seed", (), 1, 1023, log=True, integer=True), Dimension(A, (), 0.0, 2.0))
    found = [point["preprocess.drop.seed"] for point in propose(Search(kind, space, batch=64), 64, (), [])]
    assert {type(number) for number in found} == {int} and min(found) >= 1 and max(found) <= 1023
    assert 20 <= sum(number < 32 for number in found) <= 54, found


@pytest.mark.parametrize("kind", ["tpe", "cma_es"])
def test_a_pruned_trial_is_worse_than_every_complete_one_whatever_its_average(kind):
    """A pruned trial with the best average of all moves a search as the worst complete one does, where ranks alone count."""
    search = Search(kind, BOX, batch=12)
    points = propose(search, 12, (), [])
    complete = [Outcome(quality(point)) for point in points]
    worst = min(range(12), key=lambda trial: complete[trial].average)
    pruned = [*complete]
    pruned[worst] = Outcome(99.0, pruned=1)
    after = propose(search, 24, (), pruned)[12:]
    assert after == propose(search, 24, (), complete)[12:]
    misled = [*complete]
    misled[worst] = Outcome(99.0)
    assert after != propose(search, 24, (), misled)[12:]


def test_of_pruned_trials_the_one_with_more_tasks_is_better_and_then_the_one_with_the_higher_average():
    search = Search("cma_es", BOX, batch=4)
    order = [Outcome(0.1), Outcome(0.2, pruned=3), Outcome(0.9, pruned=2), Outcome(0.8, pruned=2)]
    told = [Outcome(float(-rank)) for rank in range(4)]
    assert propose(search, 8, (), order) == propose(search, 8, (), told)
    assert propose(search, 8, (), order[::-1]) == propose(search, 8, (), told[::-1]) != propose(search, 8, (), told)


@pytest.mark.parametrize("kind", ["tpe", "cma_es"])
def test_a_search_goes_on_where_all_trials_of_a_round_were_pruned(kind):
    search = Search(kind, BOX, batch=6)
    outcomes = [Outcome(0.5)] * 6 + [Outcome(0.1 * trial, pruned=1 + trial % 2) for trial in range(6)]
    points = propose(search, 18, (), outcomes)
    assert len({tuple(point.values()) for point in points}) == 18
    assert all(0 <= point[A] <= 2 and 0.01 <= point[B] <= 1 for point in points)
