from searching import row, small_space

from profiles.knobs import Drafter, Knobs
from profiles.measurement import FailureKind
from tuner.config import SpaceConfig
from tuner.drafts import Drafts
from tuner.ladders import ladders, next_rung, only_lengths
from tuner.space import build_space


def k(length, name="dflash", **rest):
    return Knobs(drafter=name, draft_length=length, **rest)


def ask(history, space, **more):
    return next_rung(history, space, space.points(), **more)


def test_every_drafter_has_a_ladder_from_off():
    """Off belongs to all of them."""
    space = small_space(names=("dflash", "ngram"), draft_lengths=(2, 5))

    assert {
        "dflash": {0: Knobs(), 2: k(2), 5: k(5)},
        "ngram": {0: Knobs(), 2: k(2, "ngram"), 5: k(5, "ngram")},
    } == ladders(space)


def test_ladders_keep_the_other_knobs():
    """One thing is varied at a time."""
    space = small_space(default=Knobs(max_num_seqs=16), draft_lengths=(2,), max_num_seqs=(8, 16))

    found = ladders(space)["dflash"]

    assert {0: Knobs(max_num_seqs=16), 2: k(2, max_num_seqs=16)} == found


def test_drafter_with_live_lengths_has_no_ladder():
    """Its lengths are learned inside one engine start."""
    drafters = {"dflash": Drafter(name="dflash", method="dflash", model="/m")}
    flags = small_space().default and frozenset({"--speculative-config"})
    space = build_space(SpaceConfig(), drafters, flags, Knobs(), live=True)

    assert {} == ladders(space)
    assert ask([row(1, Knobs(), rate=5)], space) is None


def test_only_lengths_means_no_other_axis():
    """A second list makes it a wider search."""
    assert only_lengths(small_space(names=("a", "b")))
    assert not only_lengths(small_space(max_num_seqs=(8, 16)))


def test_second_drafter_is_tried_before_the_first_is_exhausted():
    """After one length of a drafter that gains nothing the other one promises more."""
    space = small_space(names=("dflash", "ngram"))
    first = ask([row(1, Knobs(), rate=100)], space).knobs
    second = ask([row(1, Knobs(), rate=100), row(2, first, rate=100)], space).knobs

    assert {"dflash", "ngram"} == {first.drafter, second.drafter}


def test_limits_keep_a_length_off_the_ladder():
    """A length that breaks a limit is no choice, so it is neither counted nor started again."""
    space = small_space(draft_lengths=(3, 8))
    history = [row(1, Knobs(), rate=5), row(2, k(8), rate=50, limits={"ttft": 0.5})]
    allowed = [Knobs(), k(3)]

    assert k(3) == next_rung(history, space, allowed).knobs


def test_failed_length_comes_last():
    """Others first; then once more, because a crash may have been the host."""
    space = small_space(draft_lengths=(3, 8))
    history = [row(1, Knobs(), rate=5), row(2, k(3), failure=FailureKind.CRASH)]

    assert k(8) == ask(history, space).knobs
    assert k(3) == ask([*history, row(3, k(8), rate=6)], space).knobs


def test_starts_of_a_ladder_can_be_fewer():
    """Where there is more to search than lengths, a ladder may not take the budget."""
    space = small_space()
    history = [row(n, knobs, rate=100) for n, knobs in enumerate([Knobs(), k(3)])]

    assert ask(history, space) is not None
    assert ask(history, space, max_starts=2) is None


def test_acceptance_of_a_start_is_evidence():
    """The same rates with and without drafts that are all accepted ask for different lengths."""
    space = small_space()
    plain = [row(1, Knobs(), rate=100), row(2, k(4), rate=150)]
    copied = Drafts(request_steps=100, drafts=100, drafted=400, accepted=(0, 0, 0, 0, 100))
    hardly = Drafts(request_steps=100, drafts=100, drafted=400, accepted=(90, 10, 0, 0, 0))
    found = [
        ask([plain[0], row(2, k(4), rate=150, drafts=drafts)], space) for drafts in (copied, hardly)
    ]

    assert found[0] != found[1]
