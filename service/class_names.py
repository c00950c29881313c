"""P: names of workload classes as people type them."""

from profiles.classes import LOADS, Lengths, Sampling, WorkloadClass
from profiles.errors import InvalidKnobsError


def check_class(workload: str) -> None:
    """Nothing happens where it is one.

    Raises:
        InvalidKnobsError: it is none; the hint says what is.
    """
    try:
        WorkloadClass.parse(workload)
    except ValueError as error:
        raise InvalidKnobsError(
            f"{workload!r} is not a workload class.",
            hint=f"A class is SAMPLING.LENGTHS.LOAD: {' or '.join(Sampling)}; "
            f"{' or '.join(Lengths)}; {' or '.join(LOADS)}.",
        ) from error
