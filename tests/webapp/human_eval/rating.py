"""How tests fill the rating page in without a browser."""

import re

from django.http import HttpResponse
from django.test import Client

from webapp.human_eval.models import Campaign

SCORES = {"q1": "5", "q2": "3", "q3": "1", "best": "1"}


def hidden(response: HttpResponse) -> dict[str, str]:
    """Return the hidden fields of the task's form."""
    form = response.content.decode().partition('id="task"')[2]
    found = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    return {name: found[name] for name in ("token", "client_id", "active_ms", "asked")}


def fill(client: Client, url: str, **values: str) -> HttpResponse:
    """Load the page, fill its form in and send it."""
    return client.post(url, hidden(client.get(url)) | SCORES | values)


def url_of(campaign: Campaign, page: str = "") -> str:
    return f"/rate/{campaign.pk}/{page}"


def body(response: HttpResponse) -> str:
    return response.content.decode()
