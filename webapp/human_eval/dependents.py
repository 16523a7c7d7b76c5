"""What of human evaluation depends on runs and datasets, so that these cannot be deleted."""

from django.db.models import Model

from webapp.accounts.models import User
from webapp.human_eval.models import Campaign
from webapp.runs.deletion import Obstacle, named
from webapp.runs.models import Dataset, Run


def campaigns_of(user: User, item: Model) -> list[Obstacle]:
    """Return the campaigns that compare a run's models, or whose prompts are a dataset's; of others only the owner."""
    campaigns = Campaign.objects.none()
    if isinstance(item, Run):
        campaigns = Campaign.objects.filter(systems__run=item).distinct()
    elif isinstance(item, Dataset):
        campaigns = Campaign.objects.filter(dataset=item)
    reason = "the campaign {name} is about it, and its ratings would lose what they are of"
    return named(user, campaigns, reason, "a campaign of {owner} is about it")
