"""Hot restarts of a real vLLM under streaming clients: the first promise."""

import asyncio
import time

import pytest
from vllm_stage import client, complete, keep_streaming, reference

from service.demo.prompts import code_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

CLIENTS, TOKENS = 8, 64
PROMPTS = code_prompts(16, seed=3)


async def test_streams_survive_hot_restarts(stage, record_property):
    """Eight clients stream across three hot restarts: nothing failed, cut, doubled or changed."""
    await stage.serving()
    await stage.use("default")
    await stage.serving("off")
    async with client(stage.url) as session:
        texts = await reference(session, PROMPTS, TOKENS)
        before = (await stage.serving())["gateway"]["counters"]
        stopping, outputs, failures = asyncio.Event(), [], []
        tasks = [
            asyncio.create_task(
                keep_streaming(session, PROMPTS, TOKENS, stopping, outputs, failures)
            )
            for _ in range(CLIENTS)
        ]
        await asyncio.sleep(3)
        restarts = stage.status()["restarts"]
        for knobs, label in (
            ({"drafter": "dflash", "draft_length": 3}, "dflash k=3"),
            ({"drafter": "ngram", "draft_length": 5}, "ngram k=5"),
        ):
            await stage.use(stage.profile(**knobs))
            await stage.serving(label)
            await asyncio.sleep(4)
        await stage.use("default")
        await stage.serving("off")
        await asyncio.sleep(2)
        restarts = stage.status()["restarts"] - restarts
        stopping.set()
        await asyncio.gather(*tasks)
        after = (await stage.serving())["gateway"]["counters"]

    # text that neither batch size of the engine without speculation has given
    changed = [prompt for prompt, text in outputs if text not in texts[prompt]]
    varied = sum(len(each) > 1 for each in texts.values())
    record_property("answers", len(outputs))
    record_property("prompts that batching alone varies", varied)
    print(f"\n{len(outputs)} answers, {len(changed)} not in the reference, {varied} varied")

    assert [] == failures
    assert restarts == 3
    assert len(outputs) == after["answered"] - before["answered"]
    assert after["received"] - before["received"] == after["answered"] - before["answered"]
    assert after["failed"] == before["failed"]
    assert after["held_total"] > before["held_total"]
    # bfloat16 sums depend on the batch; what is allowed is what batching itself was seen to vary
    assert len(changed) <= max(1, round(len(outputs) * (varied + 1) / len(PROMPTS)))


async def test_a_profile_that_does_not_start_is_rolled_back(stage):
    """VLLM refuses the knobs: the last good profile is restored, requests wait and are answered."""
    await stage.serving()
    bad = stage.profile(drafter="broken", draft_length=4)
    await stage.use(bad)
    await stage.until(lambda s: s["mode"] in {"draining", "switching", "rolling_back"})
    async with client(stage.url) as session:
        status, answer = await complete(session, PROMPTS[0])

    assert (200, 48) == (status, answer["usage"]["completion_tokens"])
    after = await stage.serving()
    assert after["profile"]["id"] != bad
    sentences = " ".join(e["sentence"] for e in after["events"])
    assert "broken k=4, kv 1 GiB is not used for 1 h" in sentences


async def test_min_p_is_answered_although_we_turned_speculation_on(stage):
    """VLLM answers 400 to min_p while it speculates; an application must not notice that we did."""
    await stage.serving()
    await stage.use(stage.profile(drafter="ngram", draft_length=5))
    await stage.serving("ngram k=5")
    await stage.use("auto")
    async with client(stage.url) as session:
        started = time.monotonic()
        status, answer = await complete(session, PROMPTS[0], min_p=0.1, temperature=1.0)

    assert (200, 48) == (status, answer["usage"]["completion_tokens"])
    after = await stage.serving("off")
    assert "min_p" in after["profile"]["why"]
    assert time.monotonic() - started < 300
