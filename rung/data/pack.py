"""Packing: documents laid end to end in bins of one capacity, so that no token is padding.

Best-fit decreasing: longest first, each into the bin with the least room that still holds it. A tree over
the possible rooms finds that bin in O(log capacity), so n documents cost O(n log n).
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.errors import UserError


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the documents in each bin; every index once, the same bins for the same lengths."""
    for index, length in enumerate(lengths):
        if not 1 <= length <= capacity:
            raise UserError(
                f"document {index} has {length} tokens and a bin holds 1 to {capacity}; "
                "pack only what was truncated or dropped to that length."
            )
    bins: list[list[int]] = []
    bins_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = RoomTree(capacity)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        room = rooms.smallest_from(lengths[index])
        if room is None:
            number, room = len(bins), capacity
            bins.append([])
        else:
            number = bins_with_room[room].pop()
            if not bins_with_room[room]:
                rooms.set(room, False)
        bins[number].append(index)
        left = room - lengths[index]
        if left:
            bins_with_room[left].append(number)
            rooms.set(left, True)
    return bins


class RoomTree:
    """A set of integers 0..capacity that answers "the smallest member from x on" in O(log capacity).

    A complete binary tree in one list: node i has children 2i and 2i + 1, leaves start at `width`, and a node
    is true when any leaf below it is.
    """

    def __init__(self, capacity: int):
        self.width = 1 << capacity.bit_length()
        self.any_below = [False] * (2 * self.width)

    def set(self, room: int, present: bool) -> None:
        node = self.width + room
        self.any_below[node] = present
        while node > 1:
            node //= 2
            self.any_below[node] = self.any_below[2 * node] or self.any_below[2 * node + 1]

    def smallest_from(self, room: int) -> int | None:
        node = self.width + room
        if self.any_below[node]:
            return room
        # Climb until a right-hand neighbour holds something, then go down to its leftmost leaf.
        while node > 1:
            if node % 2 == 0 and self.any_below[node + 1]:
                node += 1
                while node < self.width:
                    node = 2 * node if self.any_below[2 * node] else 2 * node + 1
                return node - self.width
            node //= 2
        return None
