from hypothesis import given
from hypothesis import strategies as st
from searching import FLAGS, drafter

from profiles.knobs import Knobs, violations
from tuner.config import SpaceConfig
from tuner.design import Start, design
from tuner.space import build_space


@st.composite
def spaces(draw):
    drafters = {
        name: drafter(name, longest=draw(st.integers(1, 15)))
        for name in draw(st.sets(st.sampled_from(["a", "b", "c"]), max_size=2))
    }
    config = SpaceConfig(
        draft_lengths=tuple(draw(st.lists(st.integers(1, 15), max_size=4))),
        max_num_seqs=tuple(draw(st.lists(st.sampled_from([8, 64, 256]), max_size=3))),
        max_num_batched_tokens=tuple(draw(st.lists(st.sampled_from([256, 2048]), max_size=2))),
        gpu_memory_utilization=tuple(draw(st.lists(st.sampled_from([0.5, 0.9]), max_size=2))),
        performance_mode=tuple(
            draw(st.lists(st.sampled_from(["balanced", "throughput"]), max_size=2))
        ),
    )
    default = draw(
        st.sampled_from([Knobs(), Knobs(max_num_seqs=32), Knobs(performance_mode="balanced")])
    )
    return build_space(config, drafters, FLAGS, default), drafters


@given(spaces())
def test_decode_inverts_encode(made):
    """Every point survives the way to Optuna and back, under each of its coordinates."""
    space, _ = made

    for point in space.points():
        assert point == space.decode(space.encode(point))
        assert {point} == {space.decode(params) for params in space.encodings(point)}


@given(spaces())
def test_points_are_distinct_startable_and_hold_the_default(made):
    """No duplicate, no violation, and the default is always among them."""
    space, drafters = made
    points = space.points()

    assert len(points) == len(set(points))
    assert all(not violations(point, drafters) for point in points)
    assert space.contains(space.default)
    assert len(points) == len({tuple(space.encode(point).items()) for point in points})


@given(spaces(), st.data())
def test_distance_and_adjacency_are_symmetric(made, data):
    """A point is at distance 0 of itself only, and next to itself."""
    space, _ = made
    left, right = (data.draw(st.sampled_from(space.points())) for _ in range(2))

    assert space.distance(left, right) == space.distance(right, left)
    assert (space.distance(left, right) == 0) == (left == right)
    assert space.adjacent(left, right) == space.adjacent(right, left)
    assert space.adjacent(left, left)


@given(spaces(), st.data(), st.integers(1, 9))
def test_design_is_distinct_inside_the_space_and_starts_with_the_default(made, data, size):
    """Whatever warm starts are offered, the design keeps its promises and its size."""
    space, _ = made
    offered = [*space.points(), Knobs(max_num_seqs=7)]
    warm = [
        Start(knobs=knobs, why="warm")
        for knobs in data.draw(st.lists(st.sampled_from(offered), max_size=5))
    ]

    found = design(space, space.default, warm, size=size)

    assert space.default == found[0].knobs
    assert len(found) == len({start.knobs for start in found}) == min(size, len(space.points()))
    assert all(space.contains(start.knobs) for start in found)
    assert sum(start.why == "warm" for start in found) <= min(3, (size - 1) // 2)
    assert found == design(space, space.default, warm, size=size)
