"""Who wins in the playground: Bradley–Terry strengths from its judgements, with intervals and counts."""

from dataclasses import dataclass

from rso_core.bradley_terry import games_of, leaderboard
from rso_core.ratings import SAME
from webapp.accounts.models import User
from webapp.human_eval.models import Answer, Campaign

_SEED = 0


@dataclass(frozen=True)
class Row:
    """A model's place. Strengths are on the log-odds scale, 0 is the mean."""

    label: str
    strength: float
    low: float
    high: float
    games: int
    won: float


@dataclass(frozen=True)
class Board:
    """The models, strongest first, and how many judgements that rests on."""

    rows: list[Row]
    judgements: int
    is_connected: bool


def board_of(user: User, *, everybody: bool = False) -> Board:
    """Return the leaderboard of this person's own judgements, or of all in playgrounds they may see.

    The same weights are the same model, whoever asked them.
    """
    campaigns = Campaign.objects.filter(kind=Campaign.Kind.PLAYGROUND)
    seen = campaigns.visible_to(user) if everybody else campaigns.filter(owner=user)
    answers = Answer.objects.filter(campaign__in=seen, standing=Answer.Standing.COUNTED).order_by("pk")
    labels: dict[str, str] = {}
    shown, choice, roots = [], [], []
    for answer in answers.select_related("item").prefetch_related("item__responses__system"):
        systems = [response.system for response in answer.item.responses.all() if response.system is not None]
        labels |= {system.upload_digest: system.label for system in systems}
        shown.append([system.upload_digest for system in systems])
        choice.append(SAME if answer.choice is None else answer.choice)
        roots.append(answer.item.root)
    if not shown:
        return Board([], 0, is_connected=True)
    return _board(labels, shown, choice, roots)


def _board(labels: dict[str, str], shown: list[list[str]], choice: list[int], roots: list[str]) -> Board:
    number = {digest: index for index, digest in enumerate(labels)}
    cluster = {root: index for index, root in enumerate(dict.fromkeys(roots))}
    games = games_of([[number[digest] for digest in one] for one in shown], choice, [cluster[root] for root in roots])
    found = leaderboard(games, len(labels), seed=_SEED)
    rows = [
        Row(label, item.strength, item.low, item.high, item.games, item.won)
        for label, item in zip(labels.values(), found.systems, strict=True)
    ]
    return Board(sorted(rows, key=lambda row: -row.strength), len(shown), found.connected)
