"""What PostgreSQL cannot hold: NUL and lone surrogates in text, NaN and infinity in JSON."""

import math


def storable(text: str) -> str:
    """Return `text` with NUL as U+FFFD and lone surrogates as question marks."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def finite(value: float | None) -> float | None:
    """Return `value`, or None when it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None
