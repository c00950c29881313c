"""vLLM's scheduler with live knobs: runs inside the engine, loaded by `--scheduler-cls`.

Standard library, `tuner_layout` beside it, and vLLM. At every step it reads the wanted k(b) table,
admitted batch and token budget, clamps them to what the engine was started with, and counts what
the step cost and yielded.

An exception in here never reaches vLLM's loop: it is counted and logged once, and from then on
every step is the parent's alone.
"""

import logging
import os
import time
from array import array
from collections import deque
from typing import Any

import tuner_layout as layout  # type: ignore[import-not-found]  # lies beside this file

PUBLISH_NS = 100_000_000  # writing costs 8 microseconds; a change of knobs publishes at once
REQUESTS_A_STEP = 2  # of which the class is looked at, on average
IN_FLIGHT = 16  # steps; vLLM has at most a few scheduled ahead
FIELD = layout.FIELD
STEPS, MIXED, PREFILL = FIELD["steps"], FIELD["mixed_steps"], FIELD["prefill_steps"]

log = logging.getLogger("vllm.tuner")


class Meter:
    """The telemetry as the engine writes it: counters in memory, published every 100 ms."""

    def __init__(self, path: str, longest: int, max_num_seqs: int) -> None:
        self.shape = layout.shape(longest, max_num_seqs)
        self.n = array("q", bytes(8 * self.shape.end))
        self.rows: set[int] = set()  # batch sizes whose cells have changed
        self._class_rows: set[int] = set()  # offsets of the rows by class that have changed
        # (class, k, drafted, tokens) of request-steps since the last publication
        self.seen: dict[tuple[int, int, int, int], int] = {}
        self.published = 0
        self._longest = longest
        self._bytes = memoryview(self.n).cast("B")
        self._sequence = 0
        # read by tunerd, which is another user in our group where the engine has a unit of its own
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640) if path else -1
        if self._fd >= 0:
            os.ftruncate(self._fd, layout.TELEMETRY_HEAD.size + 8 * self.shape.end)

    def publish(self, now: int) -> None:
        """Write what has changed."""
        self.published = now
        self._fold()
        self.n[FIELD["clock_ns"]] = time.time_ns()
        if self._fd < 0:
            return
        self._write_head()
        self._write(0, layout.CELLS)
        for batch in self.rows:
            self._write(layout.CELLS + batch * self.shape.cell_row, self.shape.cell_row)
        for at in self._class_rows:
            self._write(at, self.shape.class_row)
        self.rows.clear()
        self._class_rows.clear()
        self._write(self.shape.totals, self.shape.end - self.shape.totals)
        self._write_head()

    def _fold(self) -> None:
        n, shape = self.n, self.shape
        for (code, k, drafted, tokens), count in self.seen.items():
            at = shape.classes + (code * (self._longest + 1) + k) * shape.class_row
            self._class_rows.add(at)
            n[at] += count
            n[at + 1] += count * (drafted > 0)
            n[at + 2] += count * drafted
            # an answer that ends within its draft shows what it kept of it
            n[at + layout.CELL + min(max(tokens - 1, 0), drafted)] += count
        self.seen.clear()

    def _write_head(self) -> None:
        self._sequence += 1
        head = layout.TELEMETRY_HEAD.pack(
            layout.TELEMETRY_MAGIC, layout.VERSION, self._longest, self._sequence
        )
        os.pwrite(self._fd, head, 0)

    def _write(self, at: int, count: int) -> None:
        part = self._bytes[8 * at : 8 * (at + count)]
        os.pwrite(self._fd, part, layout.TELEMETRY_HEAD.size + 8 * at)


class Tuned:
    """The live part of a scheduler; mixed in before vLLM's own class, whose methods it wraps."""

    # per-request limits need real draft tokens; an AsyncScheduler has placeholders
    tuner_trims = False

    def tuner_begin(self: Any) -> None:
        """Open the two files and remember what the engine was started with."""
        self.tuner_on = True
        self.tuner_meter = None
        try:
            self._tuner_begin()
        except Exception:  # noqa: BLE001  whatever it is, vLLM starts without us
            self._tuner_fault()

    def _tuner_begin(self: Any) -> None:
        self.tuner_lookup = self.dynamic_sd_lookup
        self.tuner_budget = self.max_num_scheduled_tokens
        self.tuner_active = getattr(self, "max_num_active_reqs", self.max_num_running_reqs)
        self.tuner_limits: Any = None  # longest draft by class code, while any is set
        self.tuner_flight: Any = deque(maxlen=IN_FLIGHT)  # steps whose output is due
        # draft length of the step before; its drafts are verified in this one
        self.tuner_k = None if self.tuner_lookup is not None else self.num_spec_tokens
        self.tuner_end, self.tuner_busy = 0, False
        self.tuner_class: Any = {}  # request id -> (class code, request)
        self.tuner_turn = 0
        environ = os.environ
        path = environ.get(layout.TELEMETRY_VARIABLE, "")
        self.tuner_meter = Meter(path, self.num_spec_tokens, self.max_num_running_reqs)
        n = self.tuner_meter.n
        n[FIELD["max_num_seqs"]] = self.max_num_running_reqs
        n[FIELD["active_ceiling"]] = n[FIELD["active"]] = self.tuner_active
        n[FIELD["budget_ceiling"]] = n[FIELD["budget"]] = self.tuner_budget
        n[FIELD["capabilities"]] = (
            (layout.LIVE_DRAFT if self.tuner_lookup is not None else 0)
            | (layout.LIVE_ACTIVE if hasattr(self, "max_num_active_reqs") else 0)
            | layout.LIVE_BUDGET
            | (0 if self.tuner_trims else layout.ASYNC)
        )
        n[FIELD["pid"]] = os.getpid()
        self.tuner_control = layout.Control(environ.get(layout.CONTROL_VARIABLE, ""))
        self._tuner_obey(time.perf_counter_ns())
        self.tuner_meter.publish(time.perf_counter_ns())

    # --- what vLLM calls --------------------------------------------------------------------------

    def add_request(self: Any, request: Any) -> None:
        """As the parent does, and remember the class of the request."""
        super().add_request(request)  # type: ignore[misc]
        if self.tuner_on:
            try:
                code = layout.class_code(request.request_id)
                self.tuner_class[request.request_id] = code, request
            except Exception:  # noqa: BLE001  see the module
                self._tuner_fault()

    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent does, with the wanted knobs."""
        if not self.tuner_on:
            return super().schedule(*args, **kwargs)  # type: ignore[misc]
        start = time.perf_counter_ns()
        try:
            self._tuner_obey(start)
            if self.tuner_limits is not None:
                self._tuner_trim()
        except Exception:  # noqa: BLE001  see the module
            self._tuner_fault()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        try:
            if output.num_scheduled_tokens:
                k = output.num_spec_tokens_to_schedule
                self.tuner_flight.append((output, start, self.tuner_k == k, k))
                self.tuner_k = k
        except Exception:  # noqa: BLE001  see the module
            self._tuner_fault()
        return output

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        """As the parent does, and count the step."""
        before = len(self.running)
        result = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        if self.tuner_on:
            try:
                self._tuner_account(scheduler_output, result, ended=len(self.running) < before)
            except Exception:  # noqa: BLE001  see the module
                self._tuner_fault()
        return result

    # --- control ----------------------------------------------------------------------------------

    def _tuner_obey(self: Any, now: int) -> None:
        n, control = self.tuner_meter.n, self.tuner_control
        wanted = control.poll(now)
        if wanted is None:
            n[FIELD["rejected"]] = control.rejected
            return
        if wanted.ranges and self.tuner_lookup is not None:
            self.dynamic_sd_lookup = self._tuner_table(wanted.ranges)
        ceiling = self.tuner_active
        active = min(wanted.active, ceiling) if wanted.active > 0 else ceiling
        if hasattr(self, "max_num_active_reqs"):
            # never max_num_running_reqs: vLLM asserts that no more than that are running
            self.max_num_active_reqs = active
        ceiling = self.tuner_budget
        # a request with its longest draft must fit at least
        least = min(1 + self.num_spec_tokens, ceiling)
        budget = max(min(wanted.budget, ceiling), least) if wanted.budget > 0 else ceiling
        self.max_num_scheduled_tokens = budget
        limited = self.tuner_trims and any(limit >= 0 for limit in wanted.limits)
        self.tuner_limits = wanted.limits if limited else None
        n[FIELD["active"]], n[FIELD["budget"]] = active, budget
        n[FIELD["generation"]] = wanted.generation
        self.tuner_meter.publish(now)  # who changed the knobs wants what was counted until then

    def _tuner_table(self: Any, ranges: Any) -> list[int]:
        """The draft length for every batch size; index 0 is not used."""
        size, table = len(self.tuner_lookup), [0]
        for high, k in ranges:
            table += [min(k, self.num_spec_tokens)] * (min(high + 1, size) - len(table))
        return table + [table[-1]] * (size - len(table))

    def _tuner_trim(self: Any) -> None:
        """Shorten the drafts of classes that want fewer; verifying a prefix is lossless."""
        for request in self.running:
            limit = self.tuner_limits[self.tuner_class[request.request_id][0]]
            if 0 <= limit < len(request.spec_token_ids):
                request.spec_token_ids = request.spec_token_ids[:limit]

    # --- telemetry --------------------------------------------------------------------------------

    def _tuner_account(self: Any, output: Any, result: Any, *, ended: bool) -> None:
        # one pass: calls cost a tenth of what this may take
        now = time.perf_counter_ns()
        if not output.num_scheduled_tokens:  # never in flight; it clears away what was aborted
            self._tuner_close(now)
            return
        start, steady, k = now, False, 0
        while self.tuner_flight:
            scheduled, start, steady, k = self.tuner_flight.popleft()
            if scheduled is output:
                break
        else:
            return
        # a step lasts from the end of the one before, unless the engine had nothing to do
        took = now - (self.tuner_end if self.tuner_busy else max(start, self.tuner_end))
        meter, batch = self.tuner_meter, len(output.num_scheduled_tokens)
        spec = _spec_stats(result)
        if spec is None:
            drafted = sum(map(len, output.scheduled_spec_decode_tokens.values()))
        else:
            drafted = spec.num_draft_tokens
            if output.num_invalid_spec_tokens:  # by a grammar; vLLM does not count them as drafted
                drafted += sum(output.num_invalid_spec_tokens.values())
        prompt = output.total_num_scheduled_tokens - batch - drafted
        if spec is None or ended or prompt:  # an answer that ends emits less than was accepted
            tokens = sum(len(one.new_token_ids) for each in result.values() for one in each.outputs)
        else:
            tokens = batch + spec.num_accepted_tokens
        n = meter.n
        n[STEPS] += 1
        if prompt or not steady:
            at = PREFILL if prompt else MIXED
            n[FIELD["prompt_tokens"]] += prompt
        else:
            at = layout.CELLS + batch * meter.shape.cell_row + k * layout.CELL
            meter.rows.add(batch)
            self.tuner_turn += REQUESTS_A_STEP
            if self.tuner_turn >= batch:
                self.tuner_turn = 0
                self._tuner_by_class(output, result, k)
        n[at] += 1
        n[at + 1] += tokens
        n[at + 2] += took
        self.tuner_end = now
        self._tuner_close(now)

    def _tuner_close(self: Any, now: int) -> None:
        """The end of a step: who has ended, whether the engine is idle, and publication."""
        meter = self.tuner_meter
        if len(self.tuner_class) > len(self.requests):
            self._tuner_settle()
        self.tuner_busy = bool(self.running)
        if now - meter.published > PUBLISH_NS or not self.tuner_busy:
            n = meter.n
            n[FIELD["running"]], n[FIELD["waiting"]] = len(self.running), len(self.waiting)
            meter.publish(now)

    def _tuner_by_class(self: Any, output: Any, result: Any, k: int) -> None:
        """What each request of the step got."""
        drafts, seen = output.scheduled_spec_decode_tokens, self.tuner_meter.seen
        for each in result.values():
            for one in each.outputs:
                request_id = one.request_id
                code = self.tuner_class[request_id][0]
                key = code, k, len(drafts.get(request_id, ())), len(one.new_token_ids)
                seen[key] = seen.get(key, 0) + 1

    def _tuner_settle(self: Any) -> None:
        """Count the requests that have ended."""
        n, totals = self.tuner_meter.n, self.tuner_meter.shape.totals
        for request_id in self.tuner_class.keys() - self.requests.keys():
            code, request = self.tuner_class.pop(request_id)
            n[totals + code * 2] += request.num_output_tokens
            n[totals + code * 2 + 1] += 1

    def _tuner_fault(self: Any) -> None:
        """Leave everything to the parent from now on; tunerd sees the count."""
        self.tuner_on = False
        log.exception(  # noqa: LOG004  called by exception handlers only
            "tunerd's live knobs are off after an error; vLLM goes on without them"
        )
        if self.tuner_meter is not None:
            try:
                self.tuner_meter.n[FIELD["errors"]] += 1
                self.tuner_meter.publish(0)
            except Exception:  # it may be what failed in the first place
                log.exception("nor can the telemetry be written")


def _spec_stats(result: Any) -> Any:
    """The count of a step's drafts by vLLM; None without drafts or with --disable-log-stats."""
    for each in result.values():  # the first one carries it
        stats = each.scheduler_stats
        return None if stats is None else stats.spec_decoding_stats
    return None


class TunedScheduler:
    """What `--scheduler-cls` names: on the base that vLLM itself would have chosen."""

    def __new__(cls, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: PLC0415  see below
        from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415  tests need no vLLM

        asynchronous = bool(vllm_config.scheduler_config.async_scheduling)
        base = AsyncScheduler if asynchronous else Scheduler
        live = type(f"Tuned{base.__name__}", (Tuned, base), {"tuner_trims": not asynchronous})
        scheduler = live(vllm_config, *args, **kwargs)
        scheduler.tuner_begin()
        return scheduler
