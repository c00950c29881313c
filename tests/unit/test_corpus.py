"""Synthetic requests of a class."""

import pytest

from profiles.classes import RequestClass
from profiles.errors import UnavailableError
from tuner import corpus
from tuner.corpus import synthetic_requests
from tuner.replay import pinned


def requests(name="greedy.balanced", **changes):
    plan = {"prompt_tokens": 200, "max_tokens": 50, "n": 8, "seed": 3, "model": "demo"} | changes
    return synthetic_requests(RequestClass.parse(name), **plan)


def test_equal_arguments_give_equal_requests():
    """Every candidate and every start replays the same text."""
    assert requests() == requests()


def test_another_seed_gives_other_text():
    """Repetitions with fresh data are possible."""
    assert requests() != requests(seed=4)


@pytest.mark.parametrize("name", ["greedy.long-in", "sampled.balanced", "structured.short-out"])
def test_lengths_match(name):
    """The prompt has four bytes per wanted token and the answer its limit."""
    made = requests(name, prompt_tokens=1500)

    assert {(6000, 50)} == {(len(one.body["prompt"]), one.body["max_tokens"]) for one in made}


def test_the_class_sets_how_the_next_token_is_chosen():
    """Greedy is temperature 0, sampled 1 with a seed of its own, structured a grammar."""
    greedy, sampled, structured = (
        requests(name)[0].body
        for name in ("greedy.balanced", "sampled.balanced", "structured.balanced")
    )

    assert (0.0, 1.0, True) == (greedy["temperature"], sampled["temperature"], "seed" in sampled)
    assert {"type": "json_object"} == structured["response_format"]


def test_all_can_be_replayed():
    """Nothing that vLLM refuses under speculation is made up."""
    assert all(pinned(one) is not None for one in requests("sampled.balanced"))


def test_a_prompt_longer_than_the_corpus_comes_round(monkeypatch):
    """Length matters more than novelty."""
    monkeypatch.setattr(corpus, "_code", lambda: "one\ntwo\n")

    assert {40} == {len(one.body["prompt"]) for one in requests(prompt_tokens=10)}


def test_no_source_is_said(monkeypatch):
    """A Python without its standard library's source cannot make requests, and says what to do."""
    monkeypatch.setattr(corpus, "_code", lambda: "")

    with pytest.raises(UnavailableError, match="standard library"):
        requests()
