"""Campaigns, what is rated in them, slots, raters and answers. PostgreSQL is the truth about every hand-out.

A `Campaign` compares two or three `System`s on `Item`s: prompts with one `Response` per system. An item has one `Slot`
per wanted replica; a rater claims a slot under a lease and gives one `Answer`. Answers are stored by response index,
never by the place on the screen; `order` says what stood where. Rules over several rows live in `assignment.py`
(raters' actions), `services.py` (researchers' actions) and `exclusions.py`.
"""

from webapp.human_eval.models.answers import Answer, AnswerVersion, Flag, Skip
from webapp.human_eval.models.campaigns import HIGHEST_QUALITY, LARGEST_CHECK_SHARE, Campaign, Item, Response, System
from webapp.human_eval.models.conclusions import Exclusion, ResultsSnapshot
from webapp.human_eval.models.raters import Invitation, PanelLink, Participation, Rater, new_pseudonym
from webapp.human_eval.models.slots import EndedLease, Slot

__all__ = [
    "HIGHEST_QUALITY",
    "LARGEST_CHECK_SHARE",
    "Answer",
    "AnswerVersion",
    "Campaign",
    "EndedLease",
    "Exclusion",
    "Flag",
    "Invitation",
    "Item",
    "PanelLink",
    "Participation",
    "Rater",
    "Response",
    "ResultsSnapshot",
    "Skip",
    "Slot",
    "System",
    "new_pseudonym",
]
