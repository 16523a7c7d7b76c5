"""What responses look like taken together: variety and length, where reward hacking shows first."""

from collections.abc import Sequence

DISTINCT = (1, 2, 3)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return distinct-n: the share of different ones among all n-grams of words of all texts; 0 where there are none.

    It falls with the number of texts, so compare it on the same prompts. Raises ValueError for n < 1.
    """
    if n < 1:
        message = f"`n` must be 1 or above, got {n}"
        raise ValueError(message)
    words = [text.split() for text in texts]
    grams = [tuple(one[i : i + n]) for one in words for i in range(len(one) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def variety(texts: Sequence[str]) -> dict[str, float]:
    """Return distinct-1, -2 and -3 of texts, and their mean length in words and in characters."""
    count = max(len(texts), 1)
    return {
        **{f"distinct_{n}": distinct_n(texts, n) for n in DISTINCT},
        "mean_words": sum(len(text.split()) for text in texts) / count,
        "mean_chars": sum(map(len, texts)) / count,
    }
