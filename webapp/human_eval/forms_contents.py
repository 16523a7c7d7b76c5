"""The forms of what a campaign compares, and on which prompts: with all the rest when it is new, alone in a draft."""

from collections.abc import Mapping
from typing import Any

from django import forms

from webapp.accounts.models import User
from webapp.human_eval.creation import SystemChoice
from webapp.human_eval.forms_campaigns import CampaignForm, TextsForm
from webapp.human_eval.models import Campaign, System
from webapp.human_eval.prompt_sets import SPLITS
from webapp.runs.long_select import LongSelect
from webapp.runs.models import Dataset, Run, Status

PLACES = (1, 2, 3)
_MOST_RUNS = 300
_CONTENTS = ("dataset", "split", "num_items", "seed")


class ContentsForm(TextsForm):
    """Which systems are compared, and on which prompts."""

    dataset = forms.ModelChoiceField(
        Dataset.objects.none(), label="Prompts of", empty_label="choose a dataset …", help_text="Imported datasets."
    )
    split = forms.ChoiceField(
        choices=SPLITS,
        help_text="Under the split settings of the chosen runs. Prompts that a chosen system was trained on are left out.",
    )
    num_items = forms.IntegerField(
        label="Prompts", min_value=0, max_value=100_000, help_text="Drawn by the seed. 0: all of the split."
    )
    seed = forms.IntegerField(
        min_value=0,
        max_value=2**31 - 1,
        widget=forms.TextInput(attrs={"inputmode": "numeric"}),
        help_text="Of the prompts drawn, the orders shown and the intervals.",
    )
    reference = forms.ChoiceField(
        required=False,
        choices=[("2", "the second system"), ("1", "the first system")],
        initial="2",
        help_text="With two systems: wins, losses and ties are counted against it.",
    )

    def __init__(self, data: Any = None, *, user: User, initial: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial=dict(initial or {}))
        field = self.fields["dataset"]
        if isinstance(field, forms.ModelChoiceField):
            field.queryset = Dataset.objects.visible_to(user).exclude(digest="").order_by("name")
        runs = Run.objects.visible_to(user).filter(status=Status.DONE).order_by("-created")[:_MOST_RUNS]
        self._runs = {str(run.pk): run for run in runs}
        choices = self._choices()
        for place in PLACES:
            self.fields[f"system_{place}"] = forms.ChoiceField(
                label=f"System {place}",
                required=place < PLACES[-1],
                choices=[("", "none: compare two" if place == PLACES[-1] else "choose a system …"), *choices],
                widget=LongSelect,
            )
            self.fields[f"label_{place}"] = forms.CharField(
                label="Its name",
                required=False,
                max_length=80,
                help_text="For researchers only. Empty: that of the run.",
            )

    def _choices(self) -> list[Any]:
        named = [(pk, f"{run.name} · {run.config['data']['preferences']}") for pk, run in self._runs.items()]
        return [
            ("Data", [("target", "SFT target of the dataset"), ("file", "responses of a file, uploaded next")]),
            ("Policies", [(f"policy:{pk}", name) for pk, name in named]),
            ("SFT models", [(f"sft:{pk}", f"SFT of {name}") for pk, name in named]),
        ]

    @property
    def system_fields(self) -> list[tuple[Any, Any]]:
        """Return the fields of each system: what it is, its name."""
        return [(self[f"system_{place}"], self[f"label_{place}"]) for place in PLACES]

    @property
    def systems(self) -> list[SystemChoice]:
        """Return the chosen systems."""
        return [
            self._system(self.cleaned_data[f"system_{place}"], self.cleaned_data[f"label_{place}"], place)
            for place in PLACES
            if self.cleaned_data.get(f"system_{place}")
        ]

    def _system(self, chosen: str, label: str, place: int) -> SystemChoice:
        kind, _, pk = chosen.partition(":")
        run = self._runs.get(pk)
        default = {"target": "SFT target", "file": f"Uploaded {place}", "sft": f"SFT of {run.name}" if run else ""}
        name = label or default.get(kind) or (run.name if run else "")
        return SystemChoice(kind, name[:80], run, is_reference=self.cleaned_data.get("reference") == str(place))

    @property
    def contents(self) -> dict[str, Any]:
        """Return where the prompts come from, as values of `Campaign`'s fields. The task is that of the dataset."""
        return {**{name: self.cleaned_data[name] for name in _CONTENTS}, "task": self.cleaned_data["dataset"].task}


class NewCampaignForm(ContentsForm, CampaignForm):
    """A new campaign: its contents, what is asked, how tasks are handed out."""

    @property
    def campaign_values(self) -> dict[str, Any]:
        """Return the values of `Campaign`'s fields."""
        return {**super().campaign_values, **self.contents}


class DraftContentsForm(ContentsForm):
    """The contents of a draft. Responses that were uploaded to it can be kept, at any place."""

    def __init__(self, data: Any = None, *, user: User, campaign: Campaign) -> None:
        self._uploaded = {
            f"{System.Kind.FILE}:{system.index}": system for system in campaign.systems.all() if system.upload_name
        }
        super().__init__(data, user=user, initial=contents_of(campaign, keep_uploads=True))

    def _choices(self) -> list[Any]:
        kept = [(key, f"{system.label}: {system.upload_name}") for key, system in self._uploaded.items()]
        return [*([("Uploaded already", kept)] if kept else []), *super()._choices()]

    def _system(self, chosen: str, label: str, place: int) -> SystemChoice:
        system = self._uploaded.get(chosen)
        if system is None:
            return super()._system(chosen, label, place)
        is_reference = self.cleaned_data.get("reference") == str(place)
        return SystemChoice(system.kind, label or system.label, is_reference=is_reference, uploaded=system.index)


def contents_of(campaign: Campaign, *, keep_uploads: bool) -> dict[str, Any]:
    """Return what a campaign compares as initial values of the form; files are kept, or to be uploaded again."""
    values: dict[str, Any] = {name: getattr(campaign, name) for name in _CONTENTS if name != "dataset"}
    values["dataset"] = campaign.dataset_id
    for system in campaign.systems.all():
        kept = f"{system.kind}:{system.index}" if keep_uploads and system.upload_name else system.kind
        own = f"{system.kind}:{system.run_id}" if system.run_id else kept
        values |= {f"system_{system.index + 1}": own, f"label_{system.index + 1}": system.label}
        if system.is_reference:
            values["reference"] = str(system.index + 1)
    return values
