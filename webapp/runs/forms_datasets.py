"""The forms of the datasets pages: import one, look at its splits, measure its lengths."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from pydantic import ValidationError as SchemaError

from rso_core.config import DataConfig
from webapp.runs.forms import describe_error
from webapp.runs.forms_models import HUB_ID, REVISION
from webapp.runs.forms_uploads import NeededText, UploadField, UploadForm
from webapp.runs.long_select import LongSelect
from webapp.runs.models import Dataset, RegisteredModel

UPLOAD, HUB, MINI = "upload", "hub", "mini_tldr"
LAYOUTS = [
    ("auto", "recognise it from the first rows"),
    ("hh", "HH: chosen and rejected transcripts"),
    ("oasst", "OpenAssistant trees"),
    ("tldr", "TL;DR comparisons: info, summaries, choice"),
    ("preference", "prompt, chosen, rejected (text or message lists)"),
    ("sft", "prompt, target"),
    ("prompts", "prompt only"),
    ("mapping", "other columns, named below"),
]
# Responses can be left out, not made up: pairs serve every kind, prompts only themselves.
LAYOUT_KINDS = {
    Dataset.Kind.PREFERENCE: ("auto", "hh", "oasst", "tldr", "preference", "mapping"),
    Dataset.Kind.SFT: ("auto", "hh", "oasst", "tldr", "preference", "sft", "mapping"),
    Dataset.Kind.PROMPTS: ("auto", "hh", "oasst", "tldr", "preference", "sft", "prompts", "mapping"),
}
MAPPED = {
    Dataset.Kind.PREFERENCE: ("prompt", "chosen", "rejected", "root"),
    Dataset.Kind.SFT: ("prompt", "target", "root"),
    Dataset.Kind.PROMPTS: ("prompt", "root"),
}
_REQUIRED = {
    Dataset.Kind.PREFERENCE: ("chosen", "rejected"),
    Dataset.Kind.SFT: ("target",),
    Dataset.Kind.PROMPTS: ("prompt",),
}
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_STARTS = (b"PAR1", b"{", b"[", b"\x1f\x8b")  # told by its first bytes whatever the name: Parquet, JSON, gzip
_MINI_SIZES = {Dataset.Kind.PREFERENCE: 20_000, Dataset.Kind.SFT: 4_000, Dataset.Kind.PROMPTS: 1_000}


def _column(label: str, help_text: str = "", *, needed: bool = True) -> forms.CharField:
    widget = forms.TextInput(attrs={"autocomplete": "off", "class": "mono"})
    field = NeededText if needed else forms.CharField
    return field(label=label, required=False, max_length=200, help_text=help_text, widget=widget)


class NewDatasetForm(UploadForm):
    """Name a dataset, say where its rows come from and how they are written."""

    name = forms.CharField(max_length=80, help_text="Runs refer to the dataset by this name.")
    kind = forms.ChoiceField(
        label="What a row holds",
        choices=[
            (Dataset.Kind.PREFERENCE, "preference pairs: prompt, chosen, rejected"),
            (Dataset.Kind.SFT, "prompts with targets, for SFT"),
            (Dataset.Kind.PROMPTS, "prompts only"),
        ],
        widget=forms.RadioSelect,
        initial=Dataset.Kind.PREFERENCE,
    )
    task = forms.ChoiceField(
        choices=[("dialogue", "dialogue"), ("summarization", "summarisation")],
        widget=forms.RadioSelect,
        initial="dialogue",
        help_text="Selects the templates that policy and reward model read the rows in.",
    )
    origin = forms.ChoiceField(
        label="Where the rows are",
        choices=[(UPLOAD, "upload a file"), (HUB, "Hugging Face hub"), (MINI, "the built-in task mini_tldr")],
        widget=forms.RadioSelect,
        initial=UPLOAD,
    )
    file = UploadField(
        help_text="JSONL, JSON, CSV, TSV or Parquet; the text formats also as .gz.",
        widget=forms.FileInput(attrs={"accept": ",".join([*ENDINGS, ".gz"])}),
    )
    hub = NeededText(
        label="Hub id",
        validators=[HUB_ID],
        widget=forms.TextInput(attrs={"placeholder": "owner/name", "autocomplete": "off"}),
        help_text="Downloaded by a worker that is online. No code of the repository is executed.",
    )
    revision = forms.CharField(
        required=False, max_length=100, validators=[REVISION], widget=forms.TextInput(attrs={"placeholder": "main"})
    )
    hub_file = forms.CharField(
        label="File of it",
        required=False,
        max_length=200,
        help_text="Needed only when it holds several tables: the path within the repository.",
    )
    hub_split = forms.CharField(label="Split of it", required=False, max_length=60, help_text="Empty: train.")
    size = forms.IntegerField(
        label="Rows", required=False, min_value=1, max_value=1_000_000, help_text="Empty: enough for the demo."
    )
    seed = forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1, widget=forms.TextInput, initial=0)
    layout = forms.ChoiceField(choices=LAYOUTS, initial="auto", help_text="How the published file is laid out.")
    all_ranks = forms.BooleanField(
        label="All ranks",
        required=False,
        help_text="OpenAssistant: pairs of every two ranked replies. Off: only replies of adjacent rank.",
    )
    map_prompt = _column(
        "Column of the prompt",
        "Text, or a list of {role, content} messages. May be empty when the responses hold the whole dialogue.",
        needed=False,
    )
    map_chosen = _column("Column of the chosen response")
    map_rejected = _column("Column of the rejected response")
    map_target = _column("Column of the target")
    map_root = _column(
        "Column of the conversation",
        "Rows with the same value are kept in one split. Empty: the first human turn.",
        needed=False,
    )
    source = forms.CharField(
        max_length=300, required=False, help_text="Where it was published. Empty: the file name or hub id."
    )
    licence = forms.CharField(
        max_length=120, required=False, help_text="As its authors state it, for example CC-BY-4.0."
    )

    def clean_name(self) -> str:
        """Refuse a name that is taken."""
        name: str = self.cleaned_data["name"]
        if Dataset.objects.filter(name=name).exists():
            message = f"A dataset is called {name!r} already; choose another name."
            raise ValidationError(message)
        return name

    def check_file(self, upload: Any) -> None:
        """Refuse a file that neither its name nor its first bytes show to be of a format which is read."""
        start = upload.read(64).lstrip()
        upload.seek(0)
        if not upload.name.lower().removesuffix(".gz").endswith(ENDINGS) and not start.startswith(_STARTS):
            message = f"{upload.name} is in no known format. Give it one of the endings {', '.join(ENDINGS)}, or one of these with .gz behind it."
            raise ValidationError(message)

    def clean(self) -> dict[str, Any]:
        """Ask for what the chosen origin and layout need."""
        values = super().clean() or self.cleaned_data
        origin = values.get("origin")
        if origin == UPLOAD and not self.kept_file and "file" not in self.errors:
            self.add_error("file", "Choose a file to upload.")
        if origin == HUB and not values.get("hub") and "hub" not in self.errors:
            self.add_error("hub", "Write the hub id.")
        if origin != MINI:
            self._check_layout(values)
        return values

    def _check_layout(self, values: dict[str, Any]) -> None:
        kind, layout = Dataset.Kind(values.get("kind") or Dataset.Kind.PREFERENCE), values.get("layout")
        if layout and layout not in LAYOUT_KINDS[kind]:
            message = f"This layout holds no {kind.label}. Choose another, or change what a row holds."
            self.add_error("layout", message)
        if layout == "mapping":
            for name in _REQUIRED[kind]:
                if not values.get(f"map_{name}"):
                    self.add_error(f"map_{name}", "Name the column of your file that holds this.")

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration of the import stage."""
        values = self.cleaned_data
        if values["origin"] == MINI:
            size = values["size"] or _MINI_SIZES[Dataset.Kind(values["kind"])]
            return {"mini_tldr": {"size": size, "seed": values["seed"] or 0}}
        kind = Dataset.Kind(values["kind"])
        mapped = values["layout"] == "mapping"
        config: dict[str, Any] = {"layout": kind.value if mapped else values["layout"]}
        if values["origin"] == HUB:
            config |= {"hub": values["hub"], "revision": values["revision"] or "main"}
            config |= {name: values[f"hub_{name}"] for name in ("file", "split") if values[f"hub_{name}"]}
        if mapped:
            config["mapping"] = {name: values[f"map_{name}"] for name in MAPPED[kind] if values[f"map_{name}"]}
        elif values["layout"] in {"auto", "oasst"} and kind == Dataset.Kind.PREFERENCE:
            config["all_ranks"] = values["all_ranks"]
        return config

    @property
    def task_value(self) -> str:
        """Return the task; the built-in one is summarisation whatever was chosen."""
        return "summarization" if self.cleaned_data["origin"] == MINI else str(self.cleaned_data["task"])

    @property
    def upload_digest(self) -> str | None:
        """Return the digest of the uploaded file, None when the rows come from elsewhere."""
        return self.kept_file.digest if self.cleaned_data["origin"] == UPLOAD and self.kept_file else None

    @property
    def source_value(self) -> str:
        """Return where the rows came from, for people."""
        values = self.cleaned_data
        if values["source"]:
            return str(values["source"])
        file = self.kept_file.name if self.kept_file else ""
        return str({UPLOAD: file, HUB: values["hub"], MINI: "built-in task mini_tldr"}[values["origin"]])


class SplitForm(forms.Form):
    """Seed and fractions of a split. Limits are those of `DataConfig`; empty fields mean its defaults."""

    split_seed = NeededText(label="Seed", widget=forms.TextInput(attrs={"inputmode": "numeric"}))
    validation_fraction = NeededText(label="Validation", widget=forms.TextInput(attrs={"inputmode": "decimal"}))
    test_fraction = NeededText(label="Test", widget=forms.TextInput(attrs={"inputmode": "decimal"}))

    def clean(self) -> dict[str, Any]:
        """Let the schema judge what was typed."""
        values = super().clean() or self.cleaned_data
        typed = {name: value for name, value in values.items() if value}
        try:
            self.split = DataConfig.model_validate({"preferences": "-", "sft": "-", **typed})
        except SchemaError as error:
            for item in error.errors():
                self.add_error(str(item["loc"][0]) if item["loc"] else None, describe_error(item, ""))
        return values

    @property
    def settings(self) -> dict[str, Any]:
        """Return the `split` part of a run's plan."""
        return {
            "seed": self.split.split_seed,
            "validation_fraction": self.split.validation_fraction,
            "test_fraction": self.split.test_fraction,
        }


class LengthsForm(forms.Form):
    """The model whose tokenizer counts a dataset's tokens, and the limits that a run would set."""

    model = forms.ModelChoiceField(RegisteredModel.objects.none(), empty_label="choose a model …", widget=LongSelect)
    max_prompt_tokens = forms.IntegerField(label="Longest prompt", min_value=1, max_value=10_000_000, initial=512)
    max_response_tokens = forms.IntegerField(label="Longest response", min_value=1, max_value=10_000_000, initial=128)

    def __init__(self, *args: Any, models: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["model"]
        if isinstance(field, forms.ModelChoiceField):
            field.queryset = models


class DeriveForm(forms.Form):
    """The name of an SFT dataset made from chosen replies."""

    name = forms.CharField(label="Name of the new dataset", max_length=80)
