"""Work for the children of a pool."""


def add(one: int, other: int) -> int:
    return one + other
