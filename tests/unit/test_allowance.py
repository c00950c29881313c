import math

import pytest

from tuner.allowance import Allowance


def test_full_bucket_lets_the_first_probe_go():
    """Learning begins with the first busy second."""
    assert Allowance().may_probe
    assert 0.0 == Allowance().wait_s


def test_probe_is_charged_what_it_lost():
    """A second at 80 % of the goodput in force costs a fifth of a second and 20 tokens."""
    after = Allowance(burst_s=1.0).spend(1.0, probe_tok_s=80, schedule_tok_s=100)

    assert pytest.approx(0.8) == after.balance_s
    assert pytest.approx(20) == after.forgone_tokens
    assert pytest.approx(0.2) == after.forgone_s
    assert 1.0 == after.explored_s


def test_faster_probe_is_free_but_counted():
    """A gain is no income: it does not pay for later losses."""
    after = Allowance(burst_s=1.0).spend(1.0, probe_tok_s=120, schedule_tok_s=100)

    assert (1.0, 0.0, 1.0) == (after.balance_s, after.forgone_tokens, after.explored_s)


def test_unknown_loss_is_charged_whole():
    """Without a goodput to compare with, the probe may have given nothing."""
    start = Allowance(burst_s=1.0)

    assert 0.5 == start.spend(0.5, probe_tok_s=None, schedule_tok_s=100).balance_s
    assert 0.5 == start.spend(0.5, probe_tok_s=50, schedule_tok_s=None).balance_s
    assert 0.0 == start.spend(0.5, probe_tok_s=50, schedule_tok_s=None).forgone_tokens


def test_empty_bucket_waits_until_it_has_earned():
    """A debt of 0.1 s at a share of 5 % takes two busy seconds."""
    poor = Allowance(burst_s=0.4).spend(0.5, probe_tok_s=None, schedule_tok_s=None)

    assert not poor.may_probe
    assert pytest.approx(2.0) == poor.wait_s
    assert not poor.earn(1.9).may_probe
    assert poor.earn(2.1).may_probe


def test_bucket_does_not_overflow():
    """A quiet night does not buy a morning of probes."""
    assert 0.4 == Allowance(burst_s=0.4).earn(100_000).balance_s


def test_no_share_means_no_second_look():
    """With a share of zero the burst is all there is."""
    spent = Allowance(share=0.0, burst_s=0.1).spend(0.2, probe_tok_s=None, schedule_tok_s=None)

    assert math.inf == spent.wait_s
    assert not spent.earn(1000).may_probe


def test_account_keeps_both_shares():
    """A tenth of the steps explored at half the goodput is a twentieth of the tokens."""
    after = Allowance().earn(9.0, 900).earn(1.0, 50).spend(1.0, probe_tok_s=50, schedule_tok_s=100)

    assert 0.1 == after.explored_share
    assert 0.05 == after.forgone_share


def test_fresh_account_has_shares_of_nothing():
    """Before the first token both shares are zero."""
    assert (0.0, 0.0) == (Allowance().explored_share, Allowance().forgone_share)


def test_loss_stays_within_the_share():
    """However bad the probes, they lose no more than the share, the burst and one slice."""
    state, busy = Allowance(share=0.05, burst_s=1.0), 0.0
    while busy < 300:
        probe = state.may_probe
        state = state.earn(0.25, 10)
        if probe:
            state = state.spend(0.25, probe_tok_s=10, schedule_tok_s=40)
        busy += 0.25

    assert state.forgone_s <= 0.05 * busy + 1.0 + 0.25
    assert state.forgone_s > 0.05 * busy * 0.95
