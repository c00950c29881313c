import math

import pytest

from tuner.blend import SLICE_NOISE, STEP_NOISE, Belief, beliefs, best, confidence, risk
from tuner.buckets import bucket
from tuner.cells import Cell
from tuner.drafts import Drafts

ERROR = 0.04


def cell(steps, *, batch=8, tokens=1.0, step_s=0.01):
    """Steps of a batch; tokens per request and step."""
    return Cell(steps=steps, tokens=round(steps * batch * tokens), seconds=steps * step_s)


def drafts(*accepted, times=1):
    steps = times * sum(accepted)
    return Drafts(
        request_steps=steps,
        drafts=steps,
        drafted=(len(accepted) - 1) * steps,
        accepted=tuple(times * n for n in accepted),
    )


def known(cells, found, batch=8, error=ERROR):
    return beliefs(cells, found, bucket(batch), prediction_error=error)


def test_without_drafts_goodput_is_one_token_per_step_time():
    """k=0 needs no sample of acceptance: a token per request and step, exactly."""
    found = known({(8, 0): cell(100, step_s=0.02)}, {})

    assert pytest.approx(-math.log(0.02)) == found[0].mean
    assert pytest.approx(STEP_NOISE / 10) == found[0].deviation


def test_only_what_was_visited_there_has_a_belief():
    """Another bucket's step times say nothing here; a cell without steps says nothing at all."""
    cells = {(8, 0): cell(9), (3, 1): cell(9, batch=3), (8, 2): Cell()}

    assert {0} == set(known(cells, {1: drafts(1, 1)}))
    assert {1} == set(known({(3, 1): cell(9, batch=3)}, {1: drafts(1, 1)}, batch=3))
    assert {} == known({}, {})


def test_length_without_any_acceptance_has_no_belief():
    """Step times alone do not say what a draft is worth."""
    assert {0} == set(known({(8, 0): cell(9), (8, 3): cell(9)}, {}))


def test_step_times_are_compared_as_if_at_the_same_batch_sizes():
    """k=1 ran at batch 5 mostly, k=0 at 8, where steps are twice as long: k=1 still costs 20 %."""
    cells = {
        (5, 0): cell(10, batch=5, step_s=0.010),
        (8, 0): cell(200, step_s=0.020),
        (5, 1): cell(200, batch=5, step_s=0.012, tokens=1.5),
        (8, 1): cell(10, step_s=0.024, tokens=1.5),
    }
    found = known(cells, {1: drafts(1, 1, times=10**6)})

    assert pytest.approx(math.log(1.5 / 1.2), abs=0.002) == found[1].mean - found[0].mean


def test_predictions_stand_in_for_a_length_with_few_drafts():
    """Four own steps that were lucky count for little beside what longer drafts predict."""
    cells = {(8, 1): cell(4, tokens=1.75), (8, 3): cell(4000, tokens=2.0)}
    found = known(cells, {1: drafts(8, 24), 3: drafts(2, 1, 0, 1, times=8000)})

    # the longer one predicts 1.6 at k=1
    assert math.log(1.6 / 0.01) < found[1].mean < math.log(1.64 / 0.01)


def test_direct_steps_outweigh_predictions_with_enough_data():
    """The prediction's own error never shrinks: in the end only the own steps count."""
    cells = {(8, 1): cell(40_000, tokens=1.8), (8, 3): cell(4000, tokens=2.0)}
    samples = {1: drafts(1, 4, times=64_000), 3: drafts(2, 1, 0, 1, times=8000)}
    found = known(cells, samples)

    assert pytest.approx(math.log(1.8 / 0.01), abs=0.005) == found[1].mean


def test_a_drafter_that_is_hard_to_predict_is_predicted_with_less_weight():
    """With ngram's larger error the same own steps pull further."""
    cells = {(8, 1): cell(20, tokens=1.9), (8, 3): cell(4000, tokens=2.0)}
    samples = {1: drafts(1, 9, times=16), 3: drafts(2, 1, 0, 1, times=8000)}
    trained, ngram = known(cells, samples), known(cells, samples, error=0.09)

    assert ngram[1].mean > trained[1].mean
    assert ngram[1].deviation > trained[1].deviation


def test_prediction_alone_is_never_surer_than_its_error():
    """A million long drafts do not prove anything to 1 % about a shorter one."""
    samples = {3: drafts(2, 1, 0, 1, times=10**6)}
    found = known({(8, 1): cell(10**6), (8, 3): cell(10**6)}, samples)

    assert pytest.approx(math.log(1.6 / 0.01), abs=0.001) == found[1].mean
    assert ERROR <= found[1].deviation < 1.01 * ERROR


def test_a_shorter_draft_says_nothing_about_a_longer_one():
    """Its runs were cut: no belief, rather than a wrong one."""
    assert {1} == set(known({(8, 1): cell(9), (8, 3): cell(9)}, {1: drafts(1, 1)}))


def test_steps_without_a_token_are_no_belief():
    """A preempted batch can give nothing in all its steps; that has no logarithm."""
    cells = {(8, 0): cell(9), (8, 2): Cell(steps=4, tokens=0, seconds=0.1)}

    assert {0} == set(known(cells, {2: drafts(4, 0, 0)}))


def test_few_equal_steps_prove_nothing():
    """Steps that were all alike still leave a doubt, which falls with their number."""
    few = known({(8, 1): cell(4, tokens=2.0)}, {1: drafts(0, 32)})
    many = known({(8, 1): cell(400, tokens=2.0)}, {1: drafts(0, 3200)})

    assert 0 < many[1].deviation < few[1].deviation
    assert few[1].deviation > STEP_NOISE / 2


def test_lone_arm_risks_nothing():
    """Without a rival there is nothing to lose."""
    assert 0.0 == risk({3: Belief(mean=4.0, deviation=1.0)}, 3)


def pair(gap, deviation):
    return {
        3: Belief(mean=4.0, deviation=deviation),
        5: Belief(mean=4.0 - gap, deviation=deviation),
    }


def test_risk_is_the_expected_loss():
    """Of two equals half the mean distance is lost; E max(0, x) of a normal is s / sqrt(2 pi)."""
    deviation = 0.1 / math.sqrt(2)

    assert pytest.approx(0.1 / math.sqrt(2 * math.pi)) == risk(pair(0.0, deviation), 3)
    assert pytest.approx(0.5, abs=1e-6) == risk(pair(0.5, deviation), 5)


def test_risk_falls_with_data_and_with_distance():
    """More certainty or a weaker rival are less to lose."""
    assert risk(pair(0.02, 0.1), 3) > risk(pair(0.02, 0.03), 3) > risk(pair(0.02, 0.01), 3)
    assert risk(pair(0.02, 0.03), 3) > risk(pair(0.05, 0.03), 3)
    assert 0.0 == risk(pair(0.02, 0.0), 3)
    assert pytest.approx(0.02) == risk(pair(0.02, 0.0), 5)


def test_strongest_rival_counts():
    """A crowd of hopeless arms is no risk."""
    rivals = {k: Belief(mean=3.0, deviation=0.01) for k in range(6, 12)}

    assert pytest.approx(risk(pair(0.02, 0.03), 3)) == risk({**pair(0.02, 0.03), **rivals}, 3)


def test_ties_go_to_the_shortest():
    """Within 1 % the shorter draft is chosen, beyond it the better one."""
    close = {k: Belief(mean=mean, deviation=0.1) for k, mean in ((1, 0.0), (4, 0.5), (6, 0.508))}

    assert 4 == best(close, tie=0.01)
    assert 6 == best(close, tie=0.001)


def test_steps_of_one_slice_share_its_noise():
    """A thousand steps in one slice are surer of nothing than one slice is; ten slices are."""
    cells = {(8, 0): cell(1000)}

    def deviation(visits):
        found = beliefs(cells, {}, bucket(8), prediction_error=ERROR, visits={0: visits})
        return found[0].deviation

    assert deviation(1) > SLICE_NOISE > deviation(4) > deviation(10)


def test_confidence_is_the_probability_that_nothing_is_better():
    """Against one equal rival a half, less the indifference; against a hopeless one all of it."""
    equal = pair(0.0, 0.02)
    far = {3: Belief(mean=4.0, deviation=0.01), 5: Belief(mean=3.0, deviation=0.01)}

    assert pytest.approx(0.5) == confidence(equal, 3, indifference=0.0)
    assert confidence(equal, 3, indifference=0.02) > 0.7
    assert pytest.approx(1.0) == confidence(far, 3, indifference=0.02)
    assert pytest.approx(0.0, abs=1e-9) == confidence(far, 5, indifference=0.02)
    assert 1.0 == confidence({3: far[3]}, 3, indifference=0.02)


def test_confidence_without_any_noise_is_all_or_nothing():
    """Exact figures (a simulated engine) leave no doubt, and no division by zero."""
    exact = {3: Belief(mean=4.0, deviation=0.0), 5: Belief(mean=3.0, deviation=0.0)}

    assert (1, 0) == tuple(confidence(exact, k, indifference=0.02) for k in (3, 5))
