"""What the pages of datasets and models do alike: share, try a failed import again, stop one."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest
from webapp.runs.imports import Imported, retry_import, stop_import
from webapp.runs.sharing import set_shared


def share(request: SignedInRequest, item: Imported) -> HttpResponse:
    """Share the item with every researcher, or keep it to its owner and the admins."""
    messages.success(request, set_shared(request.user, item, shared="shared" in request.POST))
    return redirect(item)


def retry(request: SignedInRequest, item: Imported) -> HttpResponse:
    """Try the item's failed import again."""
    retry_import(request.user, item)
    return redirect(item)


def stop(request: SignedInRequest, item: Imported) -> HttpResponse:
    """Stop the item's import."""
    try:
        stop_import(request.user, item)
    except UserError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"The import of {item.name} is stopped. You may try it again, or delete it.")
    return redirect(item)
