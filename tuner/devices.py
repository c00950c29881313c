"""P: which cards the engine may use, so that sensors of other cards are not taken for its own."""

from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible(environment: Mapping[str, str], uuids: Sequence[str]) -> frozenset[str] | None:
    """The UUIDs that CUDA_VISIBLE_DEVICES leaves; None for every card.

    `uuids` are those of all cards in the driver's order, which is the order of the numbers when
    the cards are alike or CUDA_DEVICE_ORDER is PCI_BUS_ID. As CUDA does, the first word that
    names no card ends the list.
    """
    wanted = environment.get(VISIBLE)
    if wanted is None:
        return None
    chosen: list[str] = []
    for word in wanted.split(","):
        found = _named(word.strip(), uuids)
        if found is None:
            break
        chosen.append(found)
    return frozenset(chosen)


def _named(word: str, uuids: Sequence[str]) -> str | None:
    """The card of a number, or of the beginning of a UUID."""
    if word.isascii() and word.isdigit():
        return uuids[int(word)] if int(word) < len(uuids) else None
    matching = [uuid for uuid in uuids if word and uuid.startswith(word)]
    return matching[0] if len(matching) == 1 else None
