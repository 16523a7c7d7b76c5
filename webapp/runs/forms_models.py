"""The form that registers a model."""

from pathlib import Path
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from webapp.accounts.access import SignedInRequest
from webapp.runs.forms_uploads import NeededText, UploadField, UploadForm
from webapp.runs.models import RegisteredModel

FOLDER, UPLOAD, HUB, MINI = "folder", "upload", "hub", "mini_tldr"
HUB_ID = RegexValidator(
    r"^[\w-][\w.-]*(/[\w-][\w.-]*)?\Z", "A hub id is written owner/name, for example google-t5/t5-small."
)

REVISION = RegexValidator(r"^[\w][\w./-]*\Z", "A revision is a branch, a tag or a commit.")


def models_folder() -> Path:
    """Return the folder in which the server's own model files are found."""
    return Path(settings.VAR_DIR) / "models"


def models_on_server() -> list[str]:
    """Return the model folders and GGUF files under `models_folder`, without links that lead elsewhere."""
    root = models_folder().resolve()
    found = {path.parent for path in root.glob("**/config.json")} | set(root.glob("**/*.gguf"))
    return sorted(
        path.relative_to(root).as_posix() for path in found if path != root and path.resolve().is_relative_to(root)
    )


class NewModelForm(UploadForm):
    """Name a model and say where its files are."""

    name = forms.CharField(max_length=120, help_text="Runs refer to the model by this name.")
    origin = forms.ChoiceField(
        label="Where the files are",
        choices=[
            (FOLDER, "on the server"),
            (UPLOAD, "upload a GGUF file"),
            (HUB, "Hugging Face hub"),
            (MINI, "built-in base model of mini_tldr"),
        ],
        widget=forms.RadioSelect,
        initial=FOLDER,
    )
    folder = forms.ChoiceField(label="Folder or GGUF file", required=False)
    file = UploadField(label="GGUF file", widget=forms.FileInput(attrs={"accept": ".gguf"}))
    hub = NeededText(
        label="Hub id",
        validators=[HUB_ID],
        widget=forms.TextInput(attrs={"placeholder": "owner/name"}),
        help_text="Downloaded by a worker that is online: safetensors only, no code of the repository is executed.",
    )
    revision = forms.CharField(
        required=False, max_length=100, validators=[REVISION], widget=forms.TextInput(attrs={"placeholder": "main"})
    )
    family = forms.ChoiceField(
        choices=[("causal", "decoder-only"), ("seq2seq", "encoder–decoder (T5)")],
        required=False,
        widget=forms.RadioSelect,
        initial="causal",
        help_text="A tiny model with the task's words.",
    )
    weights = forms.ChoiceField(
        choices=[("random", "random"), ("pretrained", "pretrained, decoder-only")],
        required=False,
        widget=forms.RadioSelect,
        initial="random",
        help_text="random: SFT trains it in a minute. pretrained: can compare a summary with its post; what the task's reward model starts from.",
    )
    seed = forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1, widget=forms.TextInput, initial=0)
    licence = forms.CharField(
        max_length=120, required=False, help_text="As its authors state it, for example Apache-2.0."
    )

    def __init__(self, request: SignedInRequest) -> None:
        super().__init__(request)
        self.on_server = models_on_server()
        field = self.fields["folder"]
        if isinstance(field, forms.ChoiceField):
            field.choices = [("", "choose"), *((name, name) for name in self.on_server)]
        field.conditional = True  # type: ignore[attr-defined]
        field.help_text = f"Found under {models_folder()}: folders with a config.json, and .gguf files."

    def clean_name(self) -> str:
        """Refuse a name that is taken."""
        name: str = self.cleaned_data["name"]
        if RegisteredModel.objects.filter(name=name).exists():
            message = f"A model is called {name!r} already; choose another name."
            raise ValidationError(message)
        return name

    @property
    def too_large_advice(self) -> str:
        """Return what to do with a file that is too large."""
        return f"Copy it to {models_folder()} instead."

    def check_file(self, upload: Any) -> None:
        """Refuse a file that is not GGUF by its first bytes."""
        start = upload.read(4)
        upload.seek(0)
        if start != b"GGUF":
            message = f"{upload.name} does not begin like a GGUF file. A safetensors model has several files: put its folder under {models_folder()}."
            raise ValidationError(message)

    def clean(self) -> dict[str, Any]:
        """Ask for what the chosen origin needs."""
        values = super().clean() or self.cleaned_data
        origin = values.get("origin", "")
        wanted = {FOLDER: ("folder", "Choose a folder or file."), HUB: ("hub", "Write the hub id.")}
        if origin == UPLOAD and not self.kept_file and "file" not in self.errors:
            self.add_error("file", "Choose a .gguf file to upload.")
        if origin in wanted:
            field, message = wanted[origin]
            if field not in self.errors and not values.get(field):
                self.add_error(field, message)
        return values

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration of the import stage."""
        values = self.cleaned_data
        if values["origin"] == FOLDER:
            return {"path": str(models_folder().resolve() / values["folder"])}
        if values["origin"] == HUB:
            return {"hub": values["hub"], "revision": values["revision"] or "main"}
        if values["origin"] == MINI:
            made = {"family": values["family"] or "causal", "seed": values["seed"] or 0}
            return {"mini_tldr": made | ({"weights": "pretrained"} if values["weights"] == "pretrained" else {})}
        return {}

    @property
    def upload_digest(self) -> str | None:
        """Return the digest of the uploaded file, None when the model comes from elsewhere."""
        return self.kept_file.digest if self.cleaned_data["origin"] == UPLOAD and self.kept_file else None

    @property
    def source(self) -> str:
        """Return where the model came from, for people."""
        values = self.cleaned_data
        file = self.kept_file.name if self.kept_file else ""
        sources = {FOLDER: values["folder"], UPLOAD: file, HUB: values["hub"], MINI: "built-in task mini_tldr"}
        return str(sources[values["origin"]])
