"""Downloads of a study: CSV, LaTeX, and the bundle that the command line runs again."""

import json

from django.http import HttpResponseBase
from django.views.decorators.http import require_safe

from rso_core.study_bundle import Bundle, as_latex, table_rows
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.audit import record_download
from webapp.runs.exports import csv_lines, download
from webapp.runs.views_runs import artifacts_needed
from webapp.studies.models import Study
from webapp.studies.study_page import bundle_of, records_of
from webapp.studies.views import find_study


def _bundle(request: SignedInRequest, pk: int, file: str) -> tuple[Study, Bundle]:
    study = find_study(request, pk)
    bundle = bundle_of(study, records_of(study), everything=True)
    record_download(request, study, file=file)
    return study, bundle


@require_safe
@researcher_required
@artifacts_needed
def study_csv(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the table as CSV."""
    study, bundle = _bundle(request, pk, "study.csv")
    rows = table_rows(bundle)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return download(csv_lines(rows, columns), name=f"{study.name}.csv", content_type="text/csv")


@require_safe
@researcher_required
@artifacts_needed
def study_latex(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the table as LaTeX."""
    study, bundle = _bundle(request, pk, "study.tex")
    return download([as_latex(bundle)], name=f"{study.name}.tex", content_type="application/x-tex")


@require_safe
@researcher_required
@artifacts_needed
def study_bundle(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download everything known of the study, from which `python -m rso_core study` runs it again."""
    study, bundle = _bundle(request, pk, "bundle.json")
    text = json.dumps(bundle, indent=1, ensure_ascii=False)
    return download([text], name=f"{study.name}.json", content_type="application/json")
