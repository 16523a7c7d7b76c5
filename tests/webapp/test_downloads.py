import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from django.http import StreamingHttpResponse
from django.test import Client

from rso_core.config import parse_run_config
from tests.webapp.made_runs import config_of, finish_run, launched, model_folder
from webapp.accounts.models import User
from webapp.runs.models import Pair, Run
from webapp.runs.policy_zip import zip_folder

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(browser: Client, researcher: User) -> Run:
    return finish_run(launched(researcher, config_of("Ünsafe: name/…")))


def content(browser: Client, run: Run, file: str) -> bytes:
    response = browser.get(f"/runs/{run.pk}/{file}")
    assert isinstance(response, StreamingHttpResponse)
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "attachment" in response["Content-Disposition"]
    return b"".join(response.streaming_content)


def test_the_policy_is_a_zip_of_its_model_folder(browser: Client, run: Run, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(io.BytesIO(content(browser, run, "policy.zip")))
    assert archive.testzip() is None
    model_folder(tmp_path)
    files = {f"nsafe-name-policy/{path.name}": path.read_bytes() for path in (tmp_path / "model").iterdir()}
    found = {name: archive.read(name) for name in archive.namelist()}
    card = found.pop("nsafe-name-policy/README.md").decode()
    assert found == files
    assert "## Lineage" in card
    assert "| policy fitting |" in card
    recipe = card.split("```yaml\n")[1].split("```")[0]
    assert parse_run_config(recipe) == config_of("Ünsafe: name/…")


def test_a_large_file_is_zipped_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 5_000_000)
    pieces = list(zip_folder(tmp_path, "m", "# m"))
    assert max(map(len, pieces)) < 1_200_000
    assert zipfile.ZipFile(io.BytesIO(b"".join(pieces))).read("m/weights") == b"x" * 5_000_000


def test_pairs_come_in_the_layout_that_other_trainers_read(browser: Client, run: Run) -> None:
    rows = [json.loads(line) for line in content(browser, run, "pairs.jsonl").decode().splitlines()]
    expected = [
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in Pair.objects.order_by("index")
    ]
    assert rows == expected
    assert len(rows) > 100


def test_no_cell_of_the_csv_is_a_formula(browser: Client, run: Run) -> None:
    Pair.objects.filter(index=0).update(chosen="=HYPERLINK(1)", rejected="-2", prompt="@x")
    rows = list(csv.DictReader(io.StringIO(content(browser, run, "pairs.csv").decode("utf-8-sig"))))
    assert (rows[0]["chosen"], rows[0]["rejected"], rows[0]["prompt"]) == ("'=HYPERLINK(1)", "'-2", "'@x")
    assert float(rows[1]["probability"]) == 0.71


def test_the_recipe_is_read_back_to_the_same_configuration(browser: Client, run: Run) -> None:
    assert parse_run_config(content(browser, run, "recipe.yaml").decode()) == config_of("Ünsafe: name/…")


@pytest.mark.parametrize("file", ["policy.zip", "pairs.jsonl", "pairs.csv"])
def test_what_is_not_there_yet_is_not_found(browser: Client, researcher: User, file: str) -> None:
    run = launched(researcher)
    assert browser.get(f"/runs/{run.pk}/{file}").status_code == 404
