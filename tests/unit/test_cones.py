import pytest
from searching import row

from profiles.knobs import Knobs
from profiles.measurement import FailureKind
from tuner.cones import Cones


def at(u=0.8, s=64, t=2048, k=4, name="dflash", **rest):
    return Knobs(
        drafter=name if k else None,
        draft_length=k or "off",
        max_num_seqs=s,
        max_num_batched_tokens=t,
        gpu_memory_utilization=u,
        **rest,
    )


def cone(kind, knobs=None, **more):
    return Cones.of([row(7, knobs or at(), failure=kind, **more)])


@pytest.mark.parametrize("kind", [FailureKind.OOM_LOAD, FailureKind.OOM_SERVE])
def test_out_of_memory_excludes_everything_harder(kind):
    """More memory, requests, budget or draft length would run out too; the trial is named."""
    cones = cone(kind)

    assert "not tried: trial 7 ran out of memory with less" == cones.excludes(at(u=0.9))
    assert cones.excludes(at(s=128, t=4096, k=8)) is not None
    assert cones.excludes(at(u=0.7, s=128)) is None
    assert cones.excludes(at(k=3)) is None


def test_missing_kv_memory_excludes_less_memory():
    """KV blocks run out with a smaller memory fraction, not with a larger one."""
    cones = cone(FailureKind.NO_KV_MEMORY)

    assert cones.excludes(at(u=0.7, s=128)) is not None
    assert cones.excludes(at(u=0.9)) is None
    assert cones.excludes(at(s=32)) is None


def test_cpu_kv_space_counts_as_memory():
    """On the CPU build the KV space takes the place of the memory fraction."""
    cones = cone(FailureKind.NO_KV_MEMORY, Knobs(cpu_kv_gib=2))

    assert cones.excludes(Knobs(cpu_kv_gib=1)) is not None
    assert cones.excludes(Knobs(cpu_kv_gib=4)) is None


@pytest.mark.parametrize("kind", [FailureKind.BAD_FLAG, FailureKind.CANARY])
def test_refused_command_line_excludes_its_point_only(kind):
    """A combination that vLLM refuses, or that answers wrongly, condemns no neighbour."""
    cones = cone(kind)

    assert cones.excludes(at()) is not None
    assert cones.excludes(at(u=0.9)) is None


@pytest.mark.parametrize("kind", [FailureKind.CRASH, FailureKind.TIMEOUT])
def test_crash_excludes_its_point_from_the_second_time(kind):
    """The first crash or timeout may have been the host."""
    twice = Cones.of([row(7, at(), failure=kind), row(9, at(), failure=kind)])

    assert cone(kind).excludes(at()) is None
    assert "not tried: trials 7 and 9 failed with the same" == twice.excludes(at())
    assert twice.excludes(at(u=0.9)) is None


@pytest.mark.parametrize("kind", [FailureKind.FOREIGN_MEMORY, FailureKind.INTERRUPTED])
def test_failures_of_others_exclude_nothing(kind):
    """Somebody else's memory or a stopped daemon says nothing about the knobs."""
    assert cone(kind).excludes(at()) is None


def test_success_inside_a_cone_wins_and_the_cone_shrinks():
    """What is no harder than a success is open again, the rest of the cone stays."""
    cones = Cones.of([row(7, at(), failure=FailureKind.OOM_LOAD), row(8, at(s=128), rate=100)])

    assert cones.excludes(at(s=128)) is None
    assert cones.excludes(at(s=96)) is None
    assert cones.excludes(at(s=256)) is not None
    assert cones.excludes(at(u=0.9)) is not None


def test_unset_knobs_compare_with_unset_ones_only():
    """An unknown ceiling is neither more nor less than a known one."""
    cones = cone(FailureKind.OOM_LOAD, Knobs(max_num_seqs=64))

    assert cones.excludes(Knobs(max_num_seqs=128)) is not None
    assert cones.excludes(Knobs(max_num_seqs=128, gpu_memory_utilization=0.9)) is None
    assert cones.excludes(Knobs()) is None


def test_drafters_are_comparable_with_off_but_not_with_each_other():
    """A drafter only adds memory to off; how two drafters compare is unknown."""
    assert cone(FailureKind.OOM_LOAD, at(k=0)).excludes(at(k=1, name="ngram")) is not None
    assert cone(FailureKind.OOM_LOAD, at(k=1)).excludes(at(k=2, name="ngram")) is None
    assert cone(FailureKind.OOM_LOAD, at(k=1)).excludes(at(k=0)) is None


def test_other_modes_are_not_compared():
    """Performance modes change memory in ways nobody promised."""
    assert cone(FailureKind.OOM_LOAD).excludes(at(performance_mode="throughput")) is None


def test_serving_out_of_memory_of_another_class_counts_from_the_second_start():
    """It may depend on the load, so one other class is no evidence."""
    one = row(7, at(), failure=FailureKind.OOM_SERVE)
    two = row(9, at(), failure=FailureKind.OOM_SERVE)

    assert Cones.of([], [one]).excludes(at()) is None
    assert Cones.of([], [one, two]).excludes(at()) is not None


def test_load_failure_of_another_class_counts_at_once():
    """Starting up does not know which class will be served."""
    failed = row(7, at(), failure=FailureKind.OOM_LOAD)

    assert Cones.of([], [failed]).excludes(at(u=0.9)) is not None
    assert Cones.of([], [failed, row(8, at(u=0.9), rate=5)]).excludes(at(u=0.9)) is None
