"""A form with a file that need not be chosen again when something else in the form was wrong."""

from pathlib import PurePath
from typing import Any, NamedTuple

from django import forms
from django.conf import settings
from django.core import signing
from django.core.exceptions import ValidationError
from django.template.defaultfilters import filesizeformat

from webapp.accounts.access import SignedInRequest
from webapp.runs.uploads import is_too_large, keep_upload

_SALT = "webapp.runs.forms_uploads"
KEPT_FOR_SECONDS = 24 * 3600


class KeptFile(NamedTuple):
    """A file that has arrived: the digest of its artifact and what the person called it."""

    digest: str
    name: str


class UploadField(forms.FileField):
    """A file whose size is limited while it arrives."""

    conditional = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"required": False, "max_length": 200, **kwargs})


class NeededText(forms.CharField):
    """A text that some choice of another field makes necessary; the form's `clean` asks for it."""

    conditional = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"required": False, "max_length": 200, **kwargs})


class UploadForm(forms.Form):
    """Holds a `file`. A good one is stored at once; `kept` is its signed receipt, for this person only."""

    kept = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, request: SignedInRequest) -> None:
        posted = request.method == "POST"
        super().__init__(request.POST if posted else None, request.FILES if posted else None)
        self.request = request
        self.kept_file: KeptFile | None = None

    @property
    def too_large_advice(self) -> str:
        """Return what to do with a file that is too large."""
        return "Split it, or ask an admin to raise RSO_MAX_UPLOAD_BYTES."

    def check_file(self, upload: Any) -> None:
        """Raise ValidationError when the file is of no use to this form."""

    def clean_file(self) -> Any:
        """Refuse a file that is too large or of no use; store a good one."""
        upload = self.cleaned_data["file"]
        if is_too_large(self.request, "file"):
            limit = filesizeformat(settings.MAX_UPLOAD_BYTES)
            message = f"The file is larger than {limit}, the limit of this server. {self.too_large_advice}"
            raise ValidationError(message)
        if upload:
            self.check_file(upload)
            self._keep(KeptFile(keep_upload(upload), PurePath(upload.name or "upload").name))
        else:
            self._find_kept()
        return upload

    def _keep(self, file: KeptFile) -> None:
        self.kept_file = file
        receipt = signing.dumps([self.request.user.pk, *file], salt=_SALT)
        # Shown again with the errors, if there are any.
        self.data = self.data.copy()  # type: ignore[attr-defined]
        self.data["kept"] = receipt  # type: ignore[index]

    def _find_kept(self) -> None:
        try:
            owner, digest, name = signing.loads(self.data.get("kept", ""), salt=_SALT, max_age=KEPT_FOR_SECONDS)
        except (signing.BadSignature, ValueError):
            return
        if owner == self.request.user.pk:
            self.kept_file = KeptFile(digest, name)
