"""The results of a human evaluation: who was preferred, how good the responses were, and how sure that is."""

from rso_core.ratings import SAME, Ratings

__all__ = ["SAME", "Ratings"]
