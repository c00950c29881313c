"""A profile that was promoted and then disappoints on real traffic."""

import time
from concurrent.futures import ThreadPoolExecutor

from stage import staged

from profiles.knobs import Knobs
from profiles.profile import Origin, Profile
from profiles.store import Store

# seconds a token: what a busy machine adds is far less than the fifth that condemns a profile
QUICK, SLOW = 0.02, 0.1
TOKENS = 25  # neither short nor long: the class `greedy.balanced`
ENOUGH = 25  # probation.MIN_REQUESTS and some


def promoted(stage, draft_length):
    """A profile as a search leaves it in the store, for this traffic; its id."""
    platform = stage.ask("GET", "/v1/profiles")[1]["platform"]
    profile = Profile(
        knobs=Knobs(drafter="ngram", draft_length=draft_length),
        platform=platform,
        workload="greedy.balanced.single",
        origin=Origin.SEARCH,
        created_at=time.time(),
    )
    with Store.open(stage.store, now=time.time()) as store:
        store.put_profile(profile)
    return profile.id


def served(stage, number):
    """So many requests, five at a time, each answered right."""
    with ThreadPoolExecutor(5) as pool:
        prompts = [f"request {index}" for index in range(number)]
        replies = pool.map(lambda prompt: stage.complete(prompt, TOKENS), prompts)
        assert all(
            reply.right(prompt, TOKENS) for prompt, reply in zip(prompts, replies, strict=True)
        )


def test_an_engine_that_becomes_slow_in_probation_is_replaced():
    """F26: every answer is right, the last good profile comes back, the slow one is barred."""
    with staged(policy={"probation_s": 300.0}) as stage:
        stage.script(token_delay_s=QUICK)
        stage.start()
        served(stage, ENOUGH)
        slow = promoted(stage, 3)
        stage.use(slow)
        stage.settled("ngram k=3", modes={"probation"})
        served(stage, 5)
        stage.settled("ngram k=3", modes={"probation"})  # as quick as before
        stage.script(token_delay_s=SLOW)
        served(stage, ENOUGH)
        stage.script(token_delay_s=QUICK)
        after = stage.settled("off", modes={"serving"})
        status, refused = stage.ask("POST", "/v1/use", {"profile": slow})

        assert "the last good profile was restored" == after["profile"]["why"]
        said = [e for e in stage.events() if e.startswith("regressed: greedy.balanced streams at")]
        assert 1 == len(said), stage.events()
        assert "quarantine: ngram k=3 is not used for 1 h" in stage.events()
        assert 409 == status, refused
        assert stage.complete("after", 8).right("after", 8)
        assert 1 == len(stage.engines())


def test_an_engine_that_stays_as_quick_keeps_its_place():
    """The same switch and the same traffic without the slowness: nothing is rolled back."""
    with staged(policy={"probation_s": 5.0}) as stage:
        stage.script(token_delay_s=QUICK)
        stage.start()
        served(stage, ENOUGH)
        stage.use(promoted(stage, 3))
        stage.settled("ngram k=3")
        served(stage, ENOUGH)
        stage.settled("ngram k=3", modes={"serving"})

        assert not [event for event in stage.events() if event.startswith("regressed")]
