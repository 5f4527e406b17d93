"""When the value model is trained enough, by the explained variances of its steps."""

import pytest

from services.local.pretrain.stopping import Course, StopRule

PAIRS = StopRule(num_averaged=2, num_settled=3, least_rise=0.1)


@pytest.mark.parametrize(
    ("values", "is_enough"),
    [
        ([], False),
        ([0.9], False),  # of one step there is no mean yet
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], False),  # means .1 .3 .5 .7 .9: each rises
        ([0.5, 0.5, 0.5, 0.5], False),  # means .5, and two without a rise
        ([0.5, 0.5, 0.5, 0.5, 0.5], True),
        ([0.5, 0.5, 0.55, 0.6, 0.65, 0.7], False),  # means .5 .525 .575 .625: it rises, slowly
        ([0.5, 0.5, -1.0, 0.4, 0.5], True),  # means .5 -.25 -.3 .45: a fall is no rise, nor is the way back
    ],
)
def test_it_is_enough_when_the_mean_has_not_risen_for_some_steps(values: list[float], is_enough: bool) -> None:
    assert bool(PAIRS.reason(values)) == is_enough


def test_it_is_enough_at_the_bound_however_it_rises() -> None:
    rule = StopRule(bound=0.8, num_averaged=2, num_settled=3)

    assert rule.reason([0.5, 0.7, 0.8]) == ""  # means .6 and .75
    assert rule.reason([0.5, 0.7, 0.9]) == "it has reached 0.8"


def test_steps_without_an_explained_variance_say_nothing() -> None:
    course = Course(PAIRS)

    for step in range(1, 20):
        assert not course.take({"kind": "step", "step": step, "critic/vf_explained_var": None})
    assert (course.mean, course.num_steps) == (None, 19)


def test_a_step_that_comes_again_replaces_what_followed_it() -> None:
    course, undisturbed = Course(PAIRS), Course(PAIRS)
    values = dict(enumerate([0.1, 0.3, 0.5, 0.7], start=1))

    for step in (1, 2, 3, 4, 2, 3, 4):  # the learner crashed after step 4, and its checkpoint was of step 1
        course.take({"step": step, "critic/vf_explained_var": values[step]})
    for step in (1, 2, 3, 4):
        undisturbed.take({"step": step, "critic/vf_explained_var": values[step]})

    assert course.mean == undisturbed.mean == pytest.approx(0.6)
    assert course.reason == undisturbed.reason == ""
