"""Everything that the page of an imported dataset shows, from its artifact and the query string."""

from typing import TYPE_CHECKING, Any, cast

from webapp.accounts.access import SignedInRequest
from webapp.runs import dataset_rows
from webapp.runs.forms_datasets import DeriveForm, LengthsForm, SplitForm
from webapp.runs.lengths import lengths_context
from webapp.runs.models import Dataset, RegisteredModel

if TYPE_CHECKING:
    from rso_core.vocabulary import DatasetKind

_REJECTS_SHOWN = 20
_SPLIT_DEFAULTS = {"split_seed": "0", "validation_fraction": "0.1", "test_fraction": "0.1"}
_NAME_LENGTH = 80


def page_context(request: SignedInRequest, item: Dataset) -> dict[str, Any]:
    """Return rows, rejects, splits, lengths and derived datasets of an imported dataset."""
    words = request.GET.get("q", "").replace("\x00", "")
    number = request.GET.get("page", "")[:9]
    kind = cast("DatasetKind", item.kind)
    return {
        "rows": dataset_rows.row_page(item.digest, kind, words=words, number=int(number) if number.isdecimal() else 1),
        "words": words,
        "rejects": dataset_rows.first_rejects(item.digest, _REJECTS_SHOWN) if item.rows_rejected else [],
        "reasons": _reasons(item),
        "derived": item.derived.visible_to(request.user),
        "derive_form": DeriveForm(initial={"name": derive_name(item)}),
        "kept_split": [(name, request.GET[name]) for name in _SPLIT_DEFAULTS if name in request.GET],
        **_splits(request, item),
        **lengths(request, item),
    }


def lengths(request: SignedInRequest, item: Dataset) -> dict[str, Any]:
    """Return the part about token lengths: the form, and the profile of the model that was chosen."""
    models = RegisteredModel.objects.visible_to(request.user).exclude(digest="")
    return {
        "dataset": item,
        "has_models": models.exists(),
        "lengths_form": LengthsForm(models=models),
        **lengths_context(request.user, item, request.GET.get("profile", "")),
    }


def derive_name(item: Dataset) -> str:
    """Return a free name for the SFT dataset made from this one."""
    taken = set(Dataset.objects.filter(name__startswith=item.name[: _NAME_LENGTH - 12]).values_list("name", flat=True))
    names = (f"{item.name[: _NAME_LENGTH - 12]} targets{f' {n}' if n > 1 else ''}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _reasons(item: Dataset) -> list[tuple[str, int]]:
    """Return the reason of rejected rows with how many it met, most first."""
    sentences = item.summary.get("reasons") or {}
    counts = (item.summary.get("rejected") or {}).items()
    return [(sentences.get(code, code), count) for code, count in sorted(counts, key=lambda entry: -entry[1])]


def _splits(request: SignedInRequest, item: Dataset) -> dict[str, Any]:
    given = {name: request.GET.get(name, default) for name, default in _SPLIT_DEFAULTS.items()}
    form = SplitForm(given)
    if not form.is_valid():
        return {"split_form": form, "splits": []}
    settings = form.settings
    counts = dataset_rows.split_counts(
        item.digest,
        seed=settings["seed"],
        validation_fraction=settings["validation_fraction"],
        test_fraction=settings["test_fraction"],
    )
    return {"split_form": form, "splits": counts}
