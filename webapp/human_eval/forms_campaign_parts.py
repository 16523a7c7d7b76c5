"""The forms of a campaign's parts: uploaded responses, invitations, the panel link, known tasks."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from webapp.accounts.access import SignedInRequest
from webapp.human_eval.forms_campaigns import TextsForm, text_area
from webapp.human_eval.invitations import LONGEST_DAYS, MOST_AT_ONCE
from webapp.human_eval.models import Item
from webapp.runs.forms_uploads import UploadField, UploadForm

_LONGEST_NOTE = 120


class ResponsesForm(UploadForm):
    """A file with the responses of a system."""

    file = UploadField(
        label="Responses",
        help_text="JSONL, JSON, CSV, TSV or Parquet with `prompt_id` or `prompt`, and `response`, on each line.",
        widget=forms.FileInput(attrs={"accept": ".jsonl,.ndjson,.json,.csv,.tsv,.parquet,.gz"}),
    )

    def __init__(self, request: SignedInRequest) -> None:
        super().__init__(request)

    def clean(self) -> dict[str, Any]:
        """Ask for the file."""
        values = super().clean() or self.cleaned_data
        if self.kept_file is None and "file" not in self.errors:
            self.add_error("file", "Choose a file.")
        return values


class InviteForm(forms.Form):
    """How many invitations to make, or for whom."""

    count = forms.IntegerField(label="How many", min_value=1, max_value=MOST_AT_ONCE, initial=10)
    notes = forms.CharField(
        label="For whom",
        required=False,
        max_length=20_000,
        widget=text_area(4),
        help_text="One a line, for your own list; raters do not see it. As many invitations are made as there are lines.",
    )
    days = forms.IntegerField(label="Valid for days", min_value=1, max_value=LONGEST_DAYS, initial=14)

    def clean(self) -> dict[str, Any]:
        """Count the lines when there are some."""
        values = super().clean() or self.cleaned_data
        lines = [line.strip() for line in values.get("notes", "").splitlines() if line.strip()]
        if len(lines) > MOST_AT_ONCE:
            self.add_error("notes", f"At most {MOST_AT_ONCE} at once, got {len(lines)} lines.")
        if long := next((line for line in lines if len(line) > _LONGEST_NOTE), ""):
            self.add_error("notes", f"“{long[:40]}…” is longer than {_LONGEST_NOTE} characters.")
        self.invited = lines or [""] * (values.get("count") or 1)
        return values


class PanelForm(forms.Form):
    """The settings of a campaign's panel link. The values given are those of Prolific."""

    id_parameter = forms.RegexField(
        r"^[A-Za-z][\w-]{0,39}\Z",
        label="Parameter with the participant’s id",
        initial="PROLIFIC_PID",
        error_messages={"invalid": "A parameter is a name of letters, digits, - and _, as in PROLIFIC_PID."},
    )
    session_parameter = forms.RegexField(
        r"^[A-Za-z][\w-]{0,39}\Z",
        label="Parameter with the session",
        required=False,
        initial="SESSION_ID",
        error_messages={"invalid": "A parameter is a name of letters, digits, - and _, as in SESSION_ID."},
    )
    completion_code = forms.CharField(
        required=False, max_length=80, help_text="Shown to raters who have finished, to be typed at the panel."
    )
    return_url = forms.URLField(
        label="Return address",
        required=False,
        max_length=500,
        assume_scheme="https",
        help_text="Where raters go when they have finished, on Prolific https://app.prolific.com/submissions/complete?cc=…",
    )
    active = forms.BooleanField(required=False, initial=True, label="The link works")

    def clean_return_url(self) -> str:
        """Let nobody be sent to something that is no web page."""
        address = str(self.cleaned_data["return_url"])
        if address and not address.startswith(("https://", "http://")):
            message = "The return address must begin with https:// (or http://)."
            raise ValidationError(message)
        return address


class KnownTaskForm(TextsForm):
    """A task whose answer is known, made by hand."""

    kind = forms.ChoiceField(
        label="What it is for",
        choices=[
            (Item.Kind.QUALIFICATION, "qualification: given first, with feedback"),
            (Item.Kind.CHECK, "check: given among the others, without telling"),
        ],
        widget=forms.RadioSelect,
    )
    prompt = forms.CharField(max_length=100_000, widget=text_area(5))
    feedback = forms.CharField(
        required=False,
        max_length=5000,
        widget=text_area(3),
        help_text="Why, shown after a qualification task is answered.",
    )

    def __init__(self, data: Any = None, *, way: int, initial: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial=dict(initial or {}))
        for place in range(1, way + 1):
            self.fields[f"response_{place}"] = forms.CharField(
                label=f"Response {place}", max_length=100_000, widget=text_area(4), strip=False
            )
        choices = [(str(place), f"response {place}") for place in range(1, way + 1)]
        self.fields["best"] = forms.ChoiceField(
            label="The right answer",
            choices=[*choices, ("same", "about the same")],
            widget=forms.RadioSelect,
            initial="1",
        )
        self.order_fields(["kind", "prompt", *(f"response_{place}" for place in range(1, way + 1)), "best", "feedback"])

    @property
    def responses(self) -> list[str]:
        """Return the responses in order."""
        return [self.cleaned_data[name] for name in self.fields if name.startswith("response_")]

    @property
    def expected(self) -> int | None:
        """Return the index of the best response, None for "about the same"."""
        best = self.cleaned_data["best"]
        return None if best == "same" else int(best) - 1
