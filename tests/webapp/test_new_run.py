import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client

from rso_core.config import dump_run_config, parse_run_config
from tests.webapp.made_runs import config_of, finish_profile, finish_run, imported, launched, signed_in
from webapp.accounts.models import User
from webapp.runs.forms import form_data
from webapp.runs.models import Dataset, Run, Stage, Status

pytestmark = pytest.mark.django_db

PAGE = "/runs/new/"


def text(response: Any) -> str:
    return str(response.content.decode())


def post(browser: Client, action: str, **changes: Any) -> Any:
    return browser.post(PAGE, form_data(config_of()) | {"action": action} | changes)


def profile() -> Stage:
    return Stage.objects.get(kind="length_profile")


def field_of(response: Any, path: str) -> str:
    """Return what the page shows of a field."""
    page = text(response)
    start = page.index(f'id="field-{path}"')
    end = page.find('id="field-', start + 10)
    return page[start:end]


def test_raters_see_nothing_and_visitors_are_asked_to_sign_in(rater: User, client: Client) -> None:
    assert signed_in(rater).get(PAGE).status_code == 403
    assert client.get(PAGE).status_code == 302


def test_the_first_page_offers_the_recipes_first_and_the_data_that_is_there(browser: Client) -> None:
    page = text(browser.get(PAGE))
    assert page.index('value="preset-RSO"') < page.index('id="field-name"') < page.index('id="section-fitting"')
    assert '<option value="preferences" selected>preferences · 120 pairs</option>' in page
    assert 'the paper’s: <b class="tnum">0.05</b>' in page


def test_without_data_the_page_says_what_to_import(researcher: User) -> None:
    assert "Import preferences" in text(signed_in(researcher).get(PAGE))


def test_data_of_others_that_is_not_shared_is_not_offered(researcher: User, admin: User) -> None:
    imported(admin, shared=False)
    browser = signed_in(researcher)
    assert "preferences · 120" not in text(browser.get(PAGE))
    answer = post(browser, "preview")
    assert "No dataset that you can use here is called" in field_of(answer, "data.preferences")
    assert not Stage.objects.exists()


def test_a_preset_is_written_into_what_was_typed(browser: Client) -> None:
    answer = post(browser, "preset-SLiC", name="my words", **{"fitting.gamma": "much"})
    assert 'value="my words"' in field_of(answer, "name")
    assert 'value="much"' in field_of(answer, "fitting.gamma")
    assert '<option value="hinge" selected>' in field_of(answer, "fitting.loss")
    assert '<option value="tournament_rank" selected>' in text(answer)


def test_a_field_goes_back_to_the_papers_value_alone(browser: Client) -> None:
    answer = post(browser, "preview", reset="fitting.gamma", **{"fitting.gamma": "0.71", "fitting.batch_size": "16"})
    assert 'value="0.71"' not in text(answer)
    assert 'value="16"' in field_of(answer, "fitting.batch_size")


def test_wrong_values_land_beside_their_fields_and_are_summed_up(browser: Client) -> None:
    answer = post(browser, "preview", **{"fitting.gamma": "much", "sampling.temperature": "-1", "name": ""})
    page = text(answer)
    assert "Must be a number" in field_of(answer, "fitting.gamma")
    assert 'value="much"' in field_of(answer, "fitting.gamma")
    assert "Must be more than 0.0" in field_of(answer, "sampling.temperature")
    assert page.count("Must be a number, received &#x27;much&#x27;") == 2  # in the summary, too
    assert re.search(r'<details class="fold" id="section-sampling"\s+open>', page)
    assert not Stage.objects.exists()


def test_a_preview_shows_the_plan_and_asks_for_the_length_profile(browser: Client) -> None:
    page = text(post(browser, "preview"))
    assert 'id="preview"' in page
    assert "Time: not known yet" in page
    assert f'data-poll-url="/runs/new/profile/{profile().pk}/"' in page
    assert profile().status == Status.READY
    assert not Run.objects.exists()


def test_launch_is_refused_until_the_profile_can_be_seen(browser: Client) -> None:
    answer = post(browser, "launch")
    assert answer.status_code == 409
    assert "Not launched yet" in text(answer)
    assert 'value="launch"' not in text(answer)
    assert not Run.objects.exists()
    finish_profile(profile())
    assert 'value="launch"' in text(post(browser, "preview"))
    answer = post(browser, "launch")
    run = Run.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/runs/{run.pk}/")
    assert run.config == config_of().model_dump(mode="json")


def test_the_profile_is_polled_until_it_is_there(browser: Client) -> None:
    post(browser, "preview")
    address = f"/runs/new/profile/{profile().pk}/"
    waiting = browser.get(address)
    assert "data-running" in text(waiting)
    assert browser.get(address, headers={"If-None-Match": waiting["ETag"]}).status_code == 304
    finish_profile(profile())
    done = browser.get(address, headers={"If-None-Match": waiting["ETag"]})
    assert done.status_code == 200
    page = text(done)
    assert "data-running" not in page
    assert "left out where the policy learns from them" in page
    assert '<span class="special" title="id 0">&lt;s&gt; </span>' in page
    assert 'value="launch"' in page


def test_a_profile_of_data_that_is_not_shared_is_hidden(browser: Client, admin: User) -> None:
    post(browser, "preview")
    Dataset.objects.update(shared=False)
    other = User.objects.create_user("other", role="researcher")
    address = f"/runs/new/profile/{profile().pk}/"
    assert signed_in(other).get(address).status_code == 404
    assert signed_in(admin).get(address).status_code == 200


def test_a_failed_profile_says_why_and_is_tried_again_by_a_preview(browser: Client) -> None:
    post(browser, "preview")
    Stage.objects.update(status=Status.FAILED, message="the tokenizer has no letter A")
    assert "the tokenizer has no letter A" in text(browser.get(f"/runs/new/profile/{profile().pk}/"))
    post(browser, "preview")
    assert profile().status == Status.READY


def test_settings_changed_after_the_preview_are_shown_before_they_are_launched(browser: Client) -> None:
    finish_profile_of(browser)
    answer = post(browser, "launch", previewed="0" * 16)
    assert "The settings changed since the plan was shown" in text(answer)
    assert not Run.objects.exists()
    seen = re.search(r'name="previewed" value="(\w+)"', text(answer))
    assert seen is not None
    assert post(browser, "launch", previewed=seen[1]).status_code == 302


def finish_profile_of(browser: Client) -> None:
    post(browser, "preview")
    finish_profile(profile())


def test_sending_the_form_twice_makes_one_run(browser: Client) -> None:
    finish_profile_of(browser)
    token = str(uuid.uuid4())
    first, second = (post(browser, "launch", launch_token=token) for _ in range(2))
    assert first["Location"] == second["Location"]
    assert Run.objects.count() == 1


def test_another_run_may_be_launched_from_the_same_page(browser: Client) -> None:
    finish_profile_of(browser)
    token = str(uuid.uuid4())
    post(browser, "launch", launch_token=token)
    post(browser, "launch", launch_token=token, name="another")
    assert set(Run.objects.values_list("name", flat=True)) == {"First run", "another"}


@pytest.mark.django_db(transaction=True)
def test_a_double_click_makes_one_run(browser: Client) -> None:
    finish_profile_of(browser)
    token = str(uuid.uuid4())

    def click(_: int) -> str:
        try:
            return str(post(browser, "launch", launch_token=token)["Location"])
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(click, range(4)))) == 1
    assert Run.objects.count() == 1


def test_equal_stages_are_shown_as_reused(browser: Client, researcher: User) -> None:
    finish_run(launched(researcher))
    page = text(post(browser, "preview", **{"fitting.gamma": "0.5"}))
    assert page.count("<span>reused</span>") == 9
    assert page.count("<span>to do</span>") == 6
    assert "in all, from stages of this model measured here" in page


def test_impossible_plans_are_refused_with_a_sentence(browser: Client) -> None:
    answer = post(browser, "preview", **{"data.test_fraction": "0.0001"})
    assert "There are no test prompts" in text(answer)


def test_a_clone_brings_its_settings_and_remembers_its_origin(browser: Client, researcher: User) -> None:
    origin = launched(researcher, config_of(loss="hinge_norm"))
    page = browser.get(PAGE, {"clone": origin.pk})
    assert 'value="First run (copy)"' in field_of(page, "name")
    assert '<option value="hinge_norm" selected>' in field_of(page, "fitting.loss")
    assert 'value="16"' in field_of(page, "sampling.num_candidates")
    post(browser, "launch", name="clone", cloned_from=str(origin.pk), **{"fitting.loss": "hinge_norm"})
    assert Run.objects.get(name="clone").cloned_from == origin


def test_runs_of_others_are_cloned_only_when_shared(browser: Client, admin: User) -> None:
    hidden = launched(admin, config_of("secret recipe"))
    assert "secret recipe" not in text(browser.get(PAGE, {"clone": hidden.pk}))
    Run.objects.update(shared=True)
    assert "secret recipe" in text(browser.get(PAGE, {"clone": hidden.pk}))


def test_addresses_prefill_settings(browser: Client) -> None:
    page = browser.get(PAGE, {"preset": "DPO", "fitting.gamma": "0.9", "clone": "x"})
    assert '<option value="direct" selected>' in field_of(page, "pairs.pair_source")
    assert 'value="0.9"' in field_of(page, "fitting.gamma")


def test_a_recipe_file_fills_the_form(browser: Client) -> None:
    recipe = dump_run_config(config_of("from a file")).encode()
    answer = browser.post(PAGE, {"action": "load", "recipe": SimpleUploadedFile("recipe.yaml", recipe)})
    assert "The recipe is loaded" in text(answer)
    assert 'value="from a file"' in field_of(answer, "name")
    assert 'value="16"' in field_of(answer, "sampling.num_candidates")


def test_wrong_values_of_a_recipe_are_shown_beside_their_fields(browser: Client) -> None:
    answer = post(browser, "load", recipe_text="name: half\nfitting: {gamma: -1, color: red}")
    assert "Must be more than 0.0, received &#x27;-1&#x27;" in field_of(answer, "fitting.gamma")
    assert "`fitting.color` is not a setting" in text(answer)
    assert "Is required" in field_of(answer, "task")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", "not valid YAML"),
        (b"- a", "received list"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a" * 300_000, "a recipe has at most 256 KB"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_and_nothing_typed_is_lost(
    browser: Client, content: bytes, said: str
) -> None:
    answer = post(browser, "load", recipe=SimpleUploadedFile("recipe.yaml", content), name="typed before")
    assert said in text(answer)
    assert 'value="typed before"' in field_of(answer, "name")


def test_the_recipe_of_a_preview_can_be_downloaded(browser: Client) -> None:
    answer = post(browser, "yaml")
    assert parse_run_config(b"".join(answer.streaming_content).decode()) == config_of()
