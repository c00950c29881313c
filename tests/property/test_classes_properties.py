from hypothesis import given
from hypothesis import strategies as st

from profiles.classes import (
    LOAD_BOUNDS,
    LOAD_HYSTERESIS,
    LOADS,
    Lengths,
    RequestClass,
    RequestShape,
    Sampling,
    WorkloadClass,
    load_bin,
    request_class,
)

classes = st.builds(
    RequestClass, sampling=st.sampled_from(Sampling), lengths=st.sampled_from(Lengths)
)
workloads = st.builds(WorkloadClass, request=classes, load=st.sampled_from(LOADS))
loads = st.floats(0, 1000)
shapes = st.builds(
    RequestShape,
    endpoint=st.sampled_from(["completions", "chat/completions"]),
    prompt_tokens=st.integers(0, 100_000),
    max_tokens=st.none() | st.integers(0, 100_000),
    temperature=st.floats(-1, 2),
    structured=st.booleans(),
    stream=st.booleans(),
)


@given(classes)
def test_parsing_a_request_class_is_the_inverse_of_its_text(given_class):
    """The text of a request class names it and nothing else."""
    assert given_class == RequestClass.parse(str(given_class))


@given(workloads)
def test_parsing_a_workload_is_the_inverse_of_its_text(workload):
    """The text that the store keeps names the class and nothing else."""
    assert workload == WorkloadClass.parse(str(workload))


@given(st.text(max_size=30))
def test_only_a_text_of_a_class_parses(text):
    """Anything else raises ValueError, and nothing worse."""
    try:
        parsed = WorkloadClass.parse(text)
    except ValueError:
        return

    assert text == str(parsed)


@given(shapes)
def test_every_shape_has_one_class(shape):
    """Whatever a client sends, it is classified, and the same way again."""
    assert request_class(shape) == RequestClass.parse(str(request_class(shape)))


@given(loads, st.sampled_from(LOADS))
def test_a_load_that_stays_does_not_flap(load, previous):
    """Once a load has its bin, the same load keeps it."""
    settled = load_bin(load, previous)

    assert settled == load_bin(load, settled)


@given(loads, st.sampled_from(LOADS))
def test_a_bin_is_kept_only_near_its_borders(load, previous):
    """The answer is the plain bin or the previous one, and the latter only within the band."""
    plain, found = load_bin(load), load_bin(load, previous)
    assert found in {plain, previous}
    if found == plain:
        return

    rank = LOADS.index(previous)
    upper = LOAD_BOUNDS[rank][1] if rank < len(LOAD_BOUNDS) else float("inf")
    lower = LOAD_BOUNDS[rank - 1][1] if rank else 0.0
    assert lower * (1 - LOAD_HYSTERESIS) < load <= upper * (1 + LOAD_HYSTERESIS)


@given(st.lists(loads.filter(lambda load: 1.2001 < load < 1.7999), min_size=1))
def test_a_load_that_wobbles_at_a_border_never_changes_its_bin(series):
    """Within a fifth of a border a series of loads keeps the bin it began in."""
    for start in ("single", "low"):
        current = start
        for load in series:
            current = load_bin(load, current)

        assert start == current


@given(loads, loads, st.sampled_from(LOADS))
def test_more_load_is_never_a_lower_bin(one, other, previous):
    """From the same bin, a larger load lands in the same or a higher one."""
    low, high = sorted((one, other))

    ranks = [LOADS.index(load_bin(load, previous)) for load in (low, high)]
    assert ranks == sorted(ranks)
