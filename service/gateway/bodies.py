"""P: how many bytes the bodies of running requests take together; the one owner of the sum."""

from dataclasses import dataclass

from service.gateway.errors import BodiesFullError


@dataclass(kw_only=True)
class Bodies:
    """The sum and its limit, in bytes; what is declared and has not come takes nothing."""

    limit: int
    taken: int = 0

    def check(self, size: int) -> None:
        """Refuse a body of this declared size before it is read.

        Raises:
            BodiesFullError: there is no room for it now.
        """
        if self.taken + size > self.limit:
            raise BodiesFullError

    def take(self, size: int) -> None:
        """Count bytes that have arrived.

        Raises:
            BodiesFullError: they are beyond the limit, and are not counted.
        """
        self.check(size)
        self.taken += size

    def give(self, size: int) -> None:
        """Count the bytes of a request that is over out."""
        self.taken -= size
