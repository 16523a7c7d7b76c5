"""What Django answers at the playground's address where nothing stands before it."""

from django.http import HttpResponse
from django.shortcuts import render

from webapp.accounts.access import SignedInRequest, researcher_required


@researcher_required
def elsewhere(request: SignedInRequest) -> HttpResponse:
    """Say what is to be set up: these pages are served without the playground's process."""
    return render(request, "playground/elsewhere.html", status=503)
