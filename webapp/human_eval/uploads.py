"""Give a system the responses of an uploaded file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db import transaction

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, Response, System
from webapp.human_eval.response_files import read_response_file
from webapp.human_eval.responses import fill, unanswered


@dataclass(frozen=True)
class Taken:
    """What came of an upload: how many responses were stored, which prompts have none, what was not needed."""

    stored: int
    missing: Sequence[str]  # prompt ids
    not_needed: int  # responses of the file to prompts that are not in the campaign


def attach_file(system: System, *, digest: str, name: str, by: User) -> Taken:
    """Store the responses of a file, in the place of those of an earlier one. Raises UserError for a bad file."""
    found = read_response_file(digest)
    found.refuse_problems()
    with transaction.atomic():
        campaign = Campaign.objects.select_for_update().get(pk=system.campaign_id)
        if campaign.status != Campaign.Status.DRAFT or system.kind != System.Kind.FILE:
            message = f"the responses of {system.label!r} cannot be replaced: {_why(campaign)}"
            raise UserError(message)
        Response.objects.filter(system=system).delete()
        wanted = unanswered(system)
        if not set(wanted) & set(found.responses):
            raise UserError(_no_match(found.responses))
        stored = fill(system, {prompt: (text, False) for prompt, text in found.responses.items()})
        system.upload_digest, system.upload_name = digest, name[:120]
        system.save(update_fields=["upload_digest", "upload_name"])
        missing = [prompt for prompt in wanted if prompt not in found.responses]
        record(
            by, "uploaded responses to", campaign, system=system.label, file=name, stored=stored, missing=len(missing)
        )
    return Taken(stored, missing, len(found.responses) - stored)


def _why(campaign: Campaign) -> str:
    opened = campaign.status != Campaign.Status.DRAFT
    return "the campaign has been opened" if opened else "they do not come from a file"


def _no_match(responses: Mapping[str, str]) -> str:
    example = next(iter(responses))
    return (
        f"none of the file's {len(responses):,} prompts is in this campaign (its first one is {example!r}); download "
        f"the campaign's prompts and answer those"
    )
