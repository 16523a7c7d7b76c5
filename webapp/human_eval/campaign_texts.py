"""The texts a campaign begins with: one set for summarisation, one for dialogue.

They ask what the paper's rating pages ask (Figures 6 and 7: the quality of each response on a scale of 1 to 5, then
the best of three or "about the same"). The wording and the words of the scale points are ours: the paper shows
screenshots and publishes no text. Everything here can be changed in the form.
"""

from dataclasses import asdict, dataclass
from typing import Any

_CONSENT = """\
Your ratings are used for research on language models. They are stored and may be published under a random name
("R-…"), never under yours. You may stop at any time; what you have rated until then is kept.
"""


@dataclass(frozen=True)
class CampaignTexts:
    """What raters are shown and asked."""

    task: str
    title: str
    instructions: str
    quality_question: str
    choice_question: str
    anchors: dict[str, str]
    same_label: str = "About the same"
    scale_min: int = 1
    scale_max: int = 5
    consent: str = _CONSENT

    def values(self) -> dict[str, Any]:
        """Return the texts as values of `Campaign`'s fields."""
        return asdict(self)


SUMMARIZATION = CampaignTexts(
    task="summarization",
    title="Rate summaries of posts",
    instructions="""\
You see a post from a forum and several summaries of it. Read the post first, then every summary.

**Rate each summary by itself.** A good one

- says what the post is about and what its author wants,
- is true to the post: nothing is made up, nothing important is turned round,
- is short, and can be understood without the post.

**Then choose the best one.** If none is better than the others, choose “about the same”. Length alone is no merit:
between two summaries that say the same, the shorter one is better.
""",
    quality_question="How good is this summary?",
    choice_question="Which summary is best?",
    anchors={
        "1": "Useless: wrong, or not a summary of this post",
        "2": "Poor: misses or distorts the main point",
        "3": "Fair: the main point with clear gaps or faults",
        "4": "Good: right, with small faults",
        "5": "Excellent: right, complete and short",
    },
)
DIALOGUE = CampaignTexts(
    task="dialogue",
    title="Rate replies of an assistant",
    instructions="""\
You see a conversation between a person and an assistant, and several ways in which the assistant could go on. Read
the conversation first, then every reply.

**Rate each reply by itself.** A good one

- helps with what the person asks for,
- is true, and says so where it is not sure,
- is polite, and refuses only what would do harm.

**Then choose the best one.** If none is better than the others, choose “about the same”. Judge what is said, not how
long it is or how well it is laid out.
""",
    quality_question="How good is this reply?",
    choice_question="Which reply is best?",
    anchors={
        "1": "Useless: wrong, harmful or beside the point",
        "2": "Poor: of little help",
        "3": "Fair: helps in part",
        "4": "Good: helps, with small faults",
        "5": "Excellent: just what was needed",
    },
)
TEMPLATES = {texts.task: texts for texts in (SUMMARIZATION, DIALOGUE)}
