"""F35: tunerd is killed, or fails of a defect, at every point of its work; all recovers."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from striking import ON_LIVE, POINTS, WAYS, lane

from service.inject import KILL, RAISE


@pytest.fixture(scope="module")
def found():
    """What was wrong, by action and point: two stages at a time, each of them for many points."""
    plans = [
        (KILL, WAYS, False),
        (RAISE, WAYS, False),
        (KILL, ON_LIVE, True),
        (RAISE, ON_LIVE, True),
    ]
    wrong = {KILL: {}, RAISE: {}}
    with ThreadPoolExecutor(2) as pool:
        lanes = [(plan[0], pool.submit(lane, plan[0], plan[1], live=plan[2])) for plan in plans]
        for action, each in lanes:
            wrong[action] |= each.result()
    return wrong


# the first of them waits for all the strikes, on a machine that may be busy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("action", [KILL, RAISE])
@pytest.mark.parametrize("point", POINTS)
def test_tunerd_recovers(found, point, action):
    """One engine serves, its record, the store and the status agree, and every request is right."""
    assert "" == found[action].get(point, "nothing makes tunerd pass this point")
