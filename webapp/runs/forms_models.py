"""The form that registers a model."""

from pathlib import Path
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat

from webapp.runs.models import RegisteredModel
from webapp.runs.uploads import is_too_large

FOLDER, UPLOAD, HUB = "folder", "upload", "hub"
HUB_ID = RegexValidator(
    r"^[\w-][\w.-]*(/[\w-][\w.-]*)?\Z", "A hub id is written owner/name, for example google-t5/t5-small."
)


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


class UploadField(forms.FileField):
    """A file whose size is limited while it arrives."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"required": False, "max_length": 200, **kwargs})


class NewModelForm(forms.Form):
    """Name a model and say where its files are."""

    name = forms.CharField(max_length=120, help_text="Runs refer to the model by this name.")
    origin = forms.ChoiceField(
        label="Where the files are",
        choices=[(FOLDER, "on the server"), (UPLOAD, "upload a GGUF file"), (HUB, "Hugging Face hub")],
        widget=forms.RadioSelect,
        initial=FOLDER,
    )
    folder = forms.ChoiceField(label="Folder or GGUF file", required=False)
    file = UploadField(label="GGUF file", widget=forms.FileInput(attrs={"accept": ".gguf"}))
    hub = forms.CharField(
        label="Hub id",
        required=False,
        max_length=200,
        validators=[HUB_ID],
        widget=forms.TextInput(attrs={"placeholder": "owner/name"}),
        help_text="Downloaded by a worker that is online: safetensors only, no code of the repository is executed.",
    )
    licence = forms.CharField(
        max_length=120, required=False, help_text="As its authors state it, for example Apache-2.0."
    )

    def __init__(self, request: HttpRequest) -> None:
        posted = request.method == "POST"
        super().__init__(request.POST if posted else None, request.FILES if posted else None)
        self.request = request
        self.on_server = models_on_server()
        field = self.fields["folder"]
        if isinstance(field, forms.ChoiceField):
            field.choices = [("", "choose"), *((name, name) for name in self.on_server)]
        field.help_text = f"Found under {models_folder()}: folders with a config.json, and .gguf files."

    def clean_name(self) -> str:
        """Refuse a name that is taken."""
        name: str = self.cleaned_data["name"]
        if RegisteredModel.objects.filter(name=name).exists():
            message = f"A model is called {name!r} already; choose another name."
            raise ValidationError(message)
        return name

    def clean_file(self) -> Any:
        """Refuse a file that is too large, or not GGUF by its first bytes."""
        upload = self.cleaned_data["file"]
        if is_too_large(self.request, "file"):
            message = f"The file is larger than {filesizeformat(settings.MAX_UPLOAD_BYTES)}, the limit of this server. Copy it to {models_folder()} instead."
            raise ValidationError(message)
        if upload:
            start = upload.read(4)
            upload.seek(0)
            if start != b"GGUF":
                message = f"{upload.name} does not begin like a GGUF file. A safetensors model has several files: put its folder under {models_folder()}."
                raise ValidationError(message)
        return upload

    def clean(self) -> dict[str, Any]:
        """Ask for what the chosen origin needs."""
        values = super().clean() or self.cleaned_data
        origin = values.get("origin", "")
        field = {FOLDER: "folder", UPLOAD: "file", HUB: "hub"}.get(origin)
        if field and field not in self.errors and not values.get(field):
            wanted = {
                FOLDER: "Choose a folder or file.",
                UPLOAD: "Choose a .gguf file to upload.",
                HUB: "Write the hub id.",
            }
            self.add_error(field, wanted[origin])
        return values

    @property
    def config(self) -> dict[str, str]:
        """Return the configuration of the import stage."""
        values = self.cleaned_data
        if values["origin"] == FOLDER:
            return {"path": str(models_folder().resolve() / values["folder"])}
        return {"hub": values["hub"]} if values["origin"] == HUB else {}

    @property
    def source(self) -> str:
        """Return where the model came from, for people."""
        values = self.cleaned_data
        upload = values["file"]
        return str(
            {FOLDER: values["folder"], UPLOAD: upload.name if upload else "", HUB: values["hub"]}[values["origin"]]
        )
