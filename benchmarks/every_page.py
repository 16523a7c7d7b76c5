"""The address of every page that a browser opens with GET, filled in with things that are there, and who opens it.

The benchmark of the pages and the test that counts their queries walk the same list, which comes from the addresses of
the product itself: a page that is added is measured, and counted. What takes forms only is left out, as Django says of a
view which methods it takes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver, reverse

# Sent as files while they are read; what counts is when the first byte comes.
DOWNLOADS = frozenset(
    {
        "runs_csv", "run_recipe", "run_policy", "run_pairs_jsonl", "run_pairs_csv", "dataset_rows_file", "dataset_rejects_file",
        "campaign_prompts", "campaign_results_csv", "campaign_answers_csv", "campaign_answers_jsonl", "campaign_items_jsonl",
        "audit_csv", "study_csv", "study_latex", "study_bundle",
    }
)  # fmt: skip
# Gradio's page is not Django's. The rest wants a token that is used up.
_ELSEWHERE = frozenset({"playground", "first_sign_in", "rate_invitation", "rate_panel"})
# What people ask of lists and long pages besides their beginning.
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "runs": ("?page=40", "?q=rso", "?state=failed", "?sort=-owner", "?sort=name"),
    "datasets": ("?page=8", "?q=HH", "?kind=sft"),
    "models": ("?page=12", "?q=tiny"),
    "dataset": ("?page=9000", "?q=recipe"),
    "run_pairs": ("?q=heater", "?after=100000"),
    "people": ("?q=person",),
    "audit_log": ("?q=thing", "?kind=run", "?action=launched"),
    "campaign_items": ("?page=20", "?q=heater", "?show=split"),
}


@dataclass(frozen=True)
class Things:
    """What pages are asked for: keys, by the word their address begins with, and what else an address holds."""

    runs: int
    datasets: int
    models: int
    people: int
    campaigns: int
    studies: int
    rate: int  # a campaign that the rater takes part in
    profile: int
    prompt_id: str
    pseudonym: str


@dataclass(frozen=True)
class Page:
    """A page: its name among the addresses, where it is, and whether a rater opens it."""

    name: str
    path: str
    for_rater: bool = False

    @property
    def is_download(self) -> bool:
        """Return whether it is a file."""
        return self.name in DOWNLOADS


def every_page(things: Things) -> list[Page]:
    """Return every page of the product about these things."""
    return [
        Page(name, _address(pattern, name, things), name.split("_")[0] == "rate")
        for name, pattern in sorted(_names().items())
        if name not in _ELSEWHERE
    ]


def admin_pages() -> list[Page]:
    """Return every page of Django's admin: the first one, and each table's list, a search in it and one row."""
    from webapp.accounts.admin_site import site

    pages = [Page("admin", reverse("admin:index"))]
    for model, options in site._registry.items():  # noqa: SLF001 - it has no public name
        label = f"{model._meta.app_label}_{model._meta.model_name}"  # noqa: SLF001 - Django's public API
        listed = reverse(f"admin:{label}_changelist")
        pages.append(Page(f"admin_{label}", listed))
        if options.search_fields:
            pages.append(Page(f"admin_{label}", f"{listed}?q=heater"))
        row = model._default_manager.order_by("pk").first()  # noqa: SLF001 - Django's public API
        if row is not None:
            pages.append(Page(f"admin_{label}_change", reverse(f"admin:{label}_change", args=[row.pk])))
    return pages


def _names() -> Mapping[str, URLPattern]:
    return {str(pattern.name): pattern for pattern in _patterns(get_resolver())}


def _patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLPattern):
            yield entry
        elif entry.app_name != "admin":
            yield from _patterns(entry)


def _address(pattern: URLPattern, name: str, things: Things) -> str:
    values: dict[str, Any] = {
        "ending": "jsonl", "prompt_id": things.prompt_id, "pseudonym": things.pseudonym, "index": 0, "number": 1, "flag": 0, "invitation": 0,
        "pk": 0, "token": "none",
    }  # fmt: skip
    wanted = {parameter: values[parameter] for parameter in pattern.pattern.converters}
    if "pk" in wanted:
        path = reverse(name, kwargs=wanted)
        wanted["pk"] = things.profile if "/profile/" in path else getattr(things, path.split("/")[1])
    return reverse(name, kwargs=wanted)


def things_of(seeded: Mapping[str, Any], run: str) -> Things:
    """Return what there is about the seeded run of this name (`seed_database.Seeded`, as a dictionary)."""
    from webapp.human_eval.models import Answer
    from webapp.runs.models import Pair, RegisteredModel, RunStage

    number = seeded["runs"][run]
    stages = dict(RunStage.objects.filter(run=number).values_list("key", "stage"))
    pair = Pair.objects.filter(stage=stages["pairs"]).order_by("index").first()
    answer = Answer.objects.filter(campaign=seeded["campaign"]).select_related("rater")[0]
    return Things(
        runs=number, datasets=seeded["dataset"], models=RegisteredModel.objects.earliest("pk").pk, people=seeded["owner"],
        campaigns=seeded["campaign"], studies=seeded["study"], rate=seeded["open_campaign"], profile=stages["length_profile"],
        prompt_id=pair.prompt_id if pair else "0" * 16, pseudonym=answer.rater.pseudonym,
    )  # fmt: skip


def session_of(*, user: Any = None, rater: int | None = None) -> str:
    """Return the key of a new session in which somebody is signed in."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    if user is not None:
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    if rater is not None:
        session["rater"] = rater
    session.create()
    return str(session.session_key)
