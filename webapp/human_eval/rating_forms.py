"""What a rater sends: by place on the screen, turned into response indices here and nowhere else."""

from collections.abc import Mapping
from typing import Any

from django import forms

from webapp.human_eval.answers import Verdict
from webapp.human_eval.models import Answer, Campaign

LONGEST_REASON = 4000  # the page takes half of it: a line break is sent as two characters
SAME = "0"  # the choice "about the same"; the places count from 1
_DRAFTED = ("best", "reason")


def quality_names(campaign: Campaign) -> list[str]:
    """Return the names of the score fields, from left to right."""
    return [f"q{place}" for place in range(1, campaign.way + 1)]


class AnswerForm(forms.Form):
    """Scores, the choice and a reason. Everything but the reason is required; nothing is ever preselected."""

    token = forms.UUIDField()
    client_id = forms.UUIDField()
    active_ms = forms.IntegerField(required=False)
    reason = forms.CharField(required=False, max_length=LONGEST_REASON)
    asked = forms.CharField(required=False, max_length=8)  # whether the question about a contradiction was put

    def __init__(self, campaign: Campaign, data: Any = None) -> None:
        super().__init__(data)
        self.campaign = campaign
        points = [(str(value), str(value)) for value in range(campaign.scale_min, campaign.scale_max + 1)]
        for place, name in enumerate(quality_names(campaign), start=1):
            required = f"Response {place} needs a score from {campaign.scale_min} to {campaign.scale_max}."
            errors = {"required": required, "invalid_choice": required}
            self.fields[name] = forms.ChoiceField(choices=points, error_messages=errors)
        choices = [(str(place), str(place)) for place in range(1, campaign.way + 1)]
        required = f"Choose the best response, or “{campaign.same_label}”."
        self.fields["best"] = forms.ChoiceField(
            choices=[*choices, (SAME, SAME)], error_messages={"required": required, "invalid_choice": required}
        )

    @property
    def problems(self) -> list[str]:
        """Return what is wrong as sentences, in the order of the page."""
        names = [*quality_names(self.campaign), "best", "reason", "token", "client_id", "active_ms"]
        return [str(text) for name in names for text in self.errors.get(name, [])]

    @property
    def contradicts(self) -> bool:
        """Return whether the response that was chosen has a lower score than another."""
        scores = [int(self.cleaned_data[name]) for name in quality_names(self.campaign)]
        best = self.cleaned_data["best"]
        return bool(best != SAME and scores[int(best) - 1] < max(scores))

    @property
    def asks(self) -> bool:
        """Return whether the question about a contradiction is still to be put: once, and it blocks nothing."""
        return self.contradicts and not self.cleaned_data["asked"]

    def verdict(self, order: str) -> Verdict:
        """Return what was said by response index, given which response stood where ("201": response 2 on the left)."""
        scores = {int(index): int(self.cleaned_data[f"q{place}"]) for place, index in enumerate(order, start=1)}
        best = self.cleaned_data["best"]
        return Verdict(
            quality=tuple(scores[index] for index in range(self.campaign.way)),
            choice=None if best == SAME else int(order[int(best) - 1]),
            same=best == SAME,
            reason=self.cleaned_data["reason"].strip(),
            contradicts=self.contradicts,
        )


def sent_draft(campaign: Campaign, data: Mapping[str, Any]) -> dict[str, str]:
    """Return what a form holds so far, by place; empty when nothing was filled in."""
    names = [*quality_names(campaign), *_DRAFTED]
    return {name: str(data[name])[:LONGEST_REASON] for name in names if data.get(name)}


def said_before(answer: Answer) -> dict[str, str]:
    """Return a stored answer as its form was filled in, by place."""
    said = {f"q{place + 1}": str(getattr(answer, f"quality_{index}")) for place, index in enumerate(answer.order)}
    said["best"] = SAME if answer.same else str(answer.order.index(str(answer.choice)) + 1)
    return said | {"reason": answer.reason}
