"""What researchers type into the forms of a campaign."""

from typing import Any

from webapp.human_eval.forms_campaigns import template_values
from webapp.runs.models import Dataset, Run

PROLIFIC = {
    "id_parameter": "PROLIFIC_PID", "session_parameter": "SESSION_ID", "completion_code": "C1ABC", "active": "on",
    "return_url": "https://app.prolific.com/submissions/complete?cc=C1ABC",
}  # fmt: skip


def typed(run: Run | None = None, **changed: Any) -> dict[str, Any]:
    """Return what somebody types into the form of a new campaign."""
    first = {
        "system_1": f"policy:{run.pk}" if run else "file",
        "system_2": f"sft:{run.pk}" if run else "target",
        "system_3": "target" if run else "",
    }
    values = template_values("summarization") | {
        "name": "Which policy?",
        "dataset": Dataset.objects.get(name="targets").pk,
        "num_items": 6,
        "reference": "2",
        "max_items_per_rater": "",
        **first,
    }
    return values | changed


def known(**changed: Any) -> dict[str, Any]:
    """Return what somebody types to add a task whose answer they know."""
    values = {"kind": "check", "prompt": "What is two and two?", "best": "2", "feedback": "It is four."}
    return values | {f"response_{place}": f"It is {place + 2}." for place in (1, 2, 3)} | changed
