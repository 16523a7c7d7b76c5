"""Uploaded responses: what is read, and why a line cannot be used."""

import json
from pathlib import Path

import pytest

from rso_core.errors import UserError
from rso_core.vocabulary import prompt_id
from webapp.human_eval.response_files import read_responses
from webapp.human_eval.system_names import named_system

GOOD = '{"prompt_id": "a", "response": "yes"}'


def read(folder: Path, text: str | bytes, name: str = "theirs.jsonl") -> list[str]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_responses(path)
    try:
        found.refuse_problems()
    except UserError as error:
        return [str(error)]
    return [f"{prompt}={response}" for prompt, response in found.responses.items()]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (GOOD, "x.jsonl"),
        (f"\ufeff{GOOD}\n\n", "x.jsonl"),
        (f"[{GOOD}]", "x.json"),
        ("prompt_id,response\na,yes\n", "x.csv"),
        ("response\tprompt_id\tnote\nyes\ta\tmore\n", "x.tsv"),
        (f"{GOOD}\n{GOOD}", "x.jsonl"),
    ],
)
def test_every_usual_format_is_read(tmp_path: Path, text: str, name: str) -> None:
    assert read(tmp_path, text, name) == ["a=yes"]


def test_a_prompt_may_be_given_by_its_text(tmp_path: Path) -> None:
    lines = [{"prompt": "How?\n\nSo?", "response": "Thus."}, {"prompt_id": "", "prompt": "Why?", "response": ""}]
    found = read(tmp_path, "\n".join(map(json.dumps, lines)))
    ids = [prompt_id(text) for text in ("How?\n\nSo?", "Why?")]
    assert found == [f"{ids[0]}=Thus.", f"{ids[1]}="]


BAD = [
    ('{"prompt_id": "a"', "line 2: the record is not valid JSON"),
    ('"yes"', "line 2: expected an object with `prompt_id` (or `prompt`) and `response`, got str"),
    ('{"prompt_id": "a"}', "line 2: the column `response` is missing; its columns are `prompt_id`"),
    ("{}", "its columns are none"),
    ('{"response": "x"}', "line 2: both `prompt_id` and `prompt` are missing or empty"),
    ('{"prompt_id": 7, "response": "x"}', "line 2: `prompt_id` must be text, got int"),
    ('{"prompt_id": ["a"], "response": "x"}', "line 2: `prompt_id` must be text, got list"),
    ('{"prompt_id": "b", "response": null}', "line 2: `response` must be text, got nothing"),
    ('{"prompt_id": "b", "response": {"text": "x"}}', "line 2: `response` must be text, got dict"),
    ('{"prompt_id": "b", "response": "\\u0000"}', "line 2: the text holds a NUL character"),
    ('{"prompt_id": "b", "response": "\\ud800"}', "line 2: the text holds half of a surrogate pair"),
    ('{"prompt_id": "a", "response": "no"}', "line 2: another response to the prompt of line 1"),
    ('{"prompt_id": "b", "response": "' + "x" * 200_001 + '"}', "line 2: `response` has 200,001 characters"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_line_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path, line: str, message: str) -> None:
    (found,) = read(tmp_path, f"{GOOD}\n{line}\n")
    assert found.startswith("1 lines of the file cannot be used: ")
    assert message in found


def test_a_file_of_another_encoding_is_refused_by_line(tmp_path: Path) -> None:
    (found,) = read(tmp_path, GOOD.encode() + b'\n{"prompt_id": "b", "response": "\xe4"}')
    assert "line 2: the text is not valid UTF-8" in found


def test_many_bad_lines_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "7\n" * 50)
    assert found.startswith("50 lines of the file cannot be used: line 1: ")
    assert found.endswith("and 30 more")


@pytest.mark.parametrize(("text", "name"), [("", "x.jsonl"), ("[]", "x.json"), ("prompt_id,response\n", "x.csv")])
def test_an_empty_file_is_refused(tmp_path: Path, text: str, name: str) -> None:
    assert "the file holds no responses" in read(tmp_path, text, name)[0]


def test_a_file_of_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no known format"):
        read(tmp_path, "hello", "notes.txt")


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("As an assistant made by OpenAI I cannot.", "OpenAI"),
        ("I am ChatGPT.", "ChatGPT"),
        ("I'm gpt-4o, hello", "gpt-4o"),
        ("My name is Claude.", "Claude"),
        ("Gemini is a zodiac sign", "Gemini"),
        ("a llama and a falcon met a bard", ""),
        ("palm trees and koalas", ""),
        ("mistral wind", ""),
        ("The chatgptlike one", ""),
        ("Trained by deepmind; also OpenAI.", "deepmind"),
        ("", ""),
    ],
)
def test_names_of_systems_and_vendors_are_found(response: str, found: str) -> None:
    assert named_system(response, "A post about my garden.") == found


def test_a_name_that_the_prompt_holds_is_its_topic() -> None:
    assert named_system("The author asks whether ChatGPT helps.", "TIFU by asking chatgpt") == ""
    assert named_system("ChatGPT or Claude?", "TIFU by asking chatgpt") == "Claude"
