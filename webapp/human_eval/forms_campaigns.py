"""The forms of a campaign's texts and limits: what is asked, how tasks are handed out."""

import re
from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from webapp.human_eval.campaign_texts import TEMPLATES
from webapp.human_eval.changes import MEANING
from webapp.human_eval.models import HIGHEST_QUALITY, LARGEST_CHECK_SHARE, Campaign

_ANCHOR = re.compile(r"\s*(\d{1,2})\s*[:=\u2013-]\s*(\S.*?)\s*")


def text_area(rows: int) -> forms.Textarea:
    """Return a field of so many lines."""
    return forms.Textarea(attrs={"rows": rows})


class TextsForm(forms.Form):
    """A form whose texts end their lines as files do, whatever the browser sends: else each save would change them."""

    def clean(self) -> dict[str, Any]:
        """Write every line end as one character."""
        values = super().clean() or self.cleaned_data
        for name, value in values.items():
            if isinstance(value, str):
                values[name] = value.replace("\r\n", "\n")
        return values


class CampaignForm(TextsForm):
    """What raters are asked and how tasks are handed out."""

    name = forms.CharField(max_length=120, help_text="For researchers only.")
    title = forms.CharField(
        label="Title for raters", max_length=120, help_text="Must not tell what is compared: raters see it."
    )
    instructions = forms.CharField(
        required=False, max_length=20_000, widget=text_area(12), help_text="Markdown. One key away on every task."
    )
    consent = forms.CharField(
        label="Consent",
        required=False,
        max_length=10_000,
        widget=text_area(4),
        help_text="Markdown. Raters agree to it before they begin, and again when it changes. Empty: nothing is asked.",
    )
    quality_question = forms.CharField(label="Question about each response", max_length=200)
    choice_question = forms.CharField(label="Question about the best", max_length=200)
    same_label = forms.CharField(label="Words for “none is better”", max_length=80)
    scale_min = forms.IntegerField(label="Scale from", min_value=0, max_value=HIGHEST_QUALITY - 1)
    scale_max = forms.IntegerField(label="Scale to", min_value=1, max_value=HIGHEST_QUALITY)
    anchors = forms.CharField(
        label="Words of the scale points",
        required=False,
        max_length=2000,
        widget=text_area(5),
        help_text="One point a line, as in “5: Excellent”. Points without words are shown as numbers.",
    )
    replicas = forms.IntegerField(
        label="Raters per task",
        min_value=1,
        max_value=25,
        help_text="Each task is rated by exactly so many different raters. The paper uses 3.",
    )
    lease_minutes = forms.IntegerField(
        label="Minutes for a task",
        min_value=1,
        max_value=24 * 60,
        help_text="A task goes to somebody else when nothing is heard of its rater for so long.",
    )
    max_items_per_rater = forms.IntegerField(
        label="Most tasks of one rater", required=False, min_value=1, max_value=100_000, help_text="Empty: no limit."
    )
    check_percent = forms.FloatField(
        label="Check tasks, %",
        min_value=0,
        max_value=100 * LARGEST_CHECK_SHARE,
        help_text="Share of tasks whose answer you know, given without telling. At most 10 %.",
    )
    qualification_pass = forms.IntegerField(
        label="Right answers to qualify",
        min_value=0,
        max_value=100,
        help_text="Of the qualification tasks, which every rater gets first and with feedback. 0: they are practice.",
    )

    def clean_anchors(self) -> dict[str, str]:
        """Read "5: Excellent" lines into words by scale point."""
        found: dict[str, str] = {}
        for line in filter(str.strip, self.cleaned_data["anchors"].splitlines()):
            match = _ANCHOR.fullmatch(line)
            if match is None:
                message = (
                    f"“{line.strip()[:60]}” has no number in front: write a point and its words, as in “5: Excellent”."
                )
                raise ValidationError(message)
            if (point := str(int(match[1]))) in found:
                message = f"Point {point} has words twice; keep one line of it."
                raise ValidationError(message)
            found[point] = match[2]
        return found

    def clean(self) -> dict[str, Any]:
        """Check the scale as a whole."""
        values = super().clean()
        low, high = values.get("scale_min"), values.get("scale_max")
        if low is None or high is None:
            return values
        if low >= high:
            self.add_error("scale_max", f"The scale must end above where it begins, got {low} to {high}.")
        outside = [point for point in values.get("anchors", {}) if not low <= int(point) <= high]
        if outside:
            self.add_error("anchors", f"Point {outside[0]} is not on the scale, which goes from {low} to {high}.")
        return values

    @property
    def campaign_values(self) -> dict[str, Any]:
        """Return the values of `Campaign`'s fields."""
        values = {name: self.cleaned_data[name] for name in _SAME_NAMES}
        values["lease_seconds"] = 60 * self.cleaned_data["lease_minutes"]
        values["check_share"] = round(self.cleaned_data["check_percent"] / 100, 4)
        return values


_SAME_NAMES = (
    "name", "title", "instructions", "consent", "quality_question", "choice_question", "same_label", "scale_min",
    "scale_max", "anchors", "replicas", "max_items_per_rater", "qualification_pass",
)  # fmt: skip


def form_values(campaign: Campaign) -> dict[str, Any]:
    """Return a campaign's fields as initial values of the form."""
    values = {name: getattr(campaign, name) for name in _SAME_NAMES}
    return {
        **values,
        "anchors": written_anchors(campaign.anchors),
        "lease_minutes": campaign.lease_seconds // 60,
        "check_percent": round(100 * campaign.check_share, 2),
    }


def written_anchors(anchors: Mapping[str, str]) -> str:
    """Return the words of scale points as lines of the form."""
    return "\n".join(f"{point}: {words}" for point, words in sorted(anchors.items(), key=lambda item: int(item[0])))


def template_values(task: str) -> dict[str, Any]:
    """Return initial values of a new campaign: the texts of a template and the paper's settings."""
    texts = TEMPLATES[task].values()
    return {
        **texts,
        "anchors": written_anchors(texts["anchors"]),
        "replicas": 3,
        "lease_minutes": 30,
        "check_percent": 0,
        "qualification_pass": 0,
        "split": "test",
        "num_items": 200,
        "seed": 0,
    }


class SettingsForm(CampaignForm):
    """The settings of a campaign that is there; what is fixed by now is shown and cannot be changed."""

    def __init__(self, data: Any = None, *, campaign: Campaign, fixed: bool) -> None:
        super().__init__(data, initial=form_values(campaign))
        self.campaign = campaign
        for system in campaign.systems.all():
            self.fields[f"label_{system.index}"] = forms.CharField(
                label=f"System {system.index + 1}",
                max_length=80,
                initial=system.label,
                help_text=system.get_kind_display(),
            )
        for name in MEANING if fixed else ():
            self.fields[name].disabled = True

    @property
    def label_fields(self) -> list[Any]:
        """Return the fields of the systems' names."""
        return [self[name] for name in self.fields if name.startswith("label_")]

    @property
    def labels(self) -> dict[int, str]:
        """Return the names of the systems by index."""
        return {system.index: self.cleaned_data[f"label_{system.index}"] for system in self.campaign.systems.all()}

    def clean_anchors(self) -> dict[str, str]:
        """Keep words that may not be changed as they are."""
        return dict(self.campaign.anchors) if self.fields["anchors"].disabled else super().clean_anchors()
