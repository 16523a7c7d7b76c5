import contextlib
import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rso_core.artifacts import iterate_rows
from rso_core.errors import UserError
from rso_core.importers import REJECTS, Limits, Options, import_file, import_files, import_records, import_sft_from
from rso_core.records import REASONS
from rso_core.vocabulary import COLUMNS, Message, conversation_root, prompt_id

CASES = json.loads((Path(__file__).parent / "cases" / "rejected_rows.json").read_text(encoding="utf-8"))
GOOD = {"prompt": "good", "chosen": "b", "rejected": "c"}
PREFERENCE = Options(kind="preference")
SMALL = Options(kind="preference", limits=Limits(field_characters=100, depth=20))


def written(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def lines(*records: Any) -> str:
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def imported(path: Path, options: Options = PREFERENCE) -> tuple[dict[str, Any], list[Any], list[Any]]:
    out = Path(tempfile.mkdtemp(dir=path.parent))
    summary = import_file(path, out, options)
    rejects = [json.loads(line) for line in (out / REJECTS).read_text(encoding="utf-8").splitlines()]
    rows = list(iterate_rows([out / "rows.arrow"]))
    assert summary["rows_in"] == summary["rows_kept"] + summary["rows_rejected"]
    assert (len(rows), len(rejects)) == (summary["rows_kept"], summary["rows_rejected"])
    return summary, rows, rejects


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_bad_row_is_listed_with_its_line_and_reason_and_costs_no_other_row(
    case: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path, "rows.jsonl", lines(GOOD, case["line"], {**GOOD, "prompt": "also good"}))

    summary, rows, rejects = imported(path, SMALL)

    assert summary["rejected"] == {case["code"]: 1}
    assert summary["reasons"] == {case["code"]: REASONS[case["code"]]}
    assert [row["row_id"] for row in rows] == [1, 3]
    assert (rejects[0]["line"], rejects[0]["code"]) == (2, case["code"])
    assert rejects[0]["reason"].startswith(REASONS[case["code"]])


def test_invalid_utf8_costs_one_line(tmp_path: Path) -> None:
    data = lines(GOOD).encode() + b'{"prompt": "\xff"}\n' + lines({**GOOD, "prompt": "x"}).encode()

    summary, rows, _ = imported(written(tmp_path, "rows.jsonl", data))

    assert (summary["rejected"], len(rows)) == ({"invalid_utf8": 1}, 2)


def test_nesting_that_exhausts_the_decoder_is_one_rejected_row(tmp_path: Path) -> None:
    deep = '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"

    for name, text in (("a.jsonl", lines(GOOD, deep)), ("a.json", f"[{json.dumps(GOOD)}, {deep}]")):
        assert imported(written(tmp_path, name, text))[0]["rejected"] == {"too_deep": 1}


def test_an_overlong_line_is_skipped_without_being_held(tmp_path: Path) -> None:
    options = Options(kind="preference", limits=Limits(line_bytes=1000))
    data = lines(GOOD, {**GOOD, "prompt": "y" * 5000}, {**GOOD, "prompt": "x"})

    summary, rows, rejects = imported(written(tmp_path, "rows.jsonl", data), options)

    assert (summary["rejected"], rejects[0]["line"]) == ({"too_long": 1}, 2)
    assert [row["row_id"] for row in rows] == [1, 3]


def test_rows_have_the_columns_of_their_kind_and_identifiers_of_their_texts(tmp_path: Path) -> None:
    _, rows, _ = imported(written(tmp_path, "rows.jsonl", lines({**GOOD, "score": 3, "chosen": " b "})))

    messages: list[Message] = [{"role": "user", "content": "good"}]
    assert set(rows[0]) == set(COLUMNS["preference"])
    assert rows[0]["prompt_id"] == prompt_id("good")
    assert rows[0]["root"] == conversation_root(messages)
    assert json.loads(rows[0]["messages"]) == messages
    assert (rows[0]["chosen"], json.loads(rows[0]["meta"])) == ("b", {"score": 3})


def test_extra_columns_beyond_the_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    summary, rows, _ = imported(written(tmp_path, "rows.jsonl", lines({**GOOD, "a": 1, "b": "x" * 5000})))

    assert (json.loads(rows[0]["meta"]), summary["meta_dropped"]) == ({"a": 1}, 1)


# Layouts


def hh(chosen: str, rejected: str, before: str = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?") -> dict[str, str]:
    return {"chosen": f"{before}\n\nAssistant: {chosen}", "rejected": f"{before}\n\nAssistant: {rejected}"}


def test_hh_transcripts_become_the_common_dialogue_and_two_replies(tmp_path: Path) -> None:
    summary, rows, _ = imported(written(tmp_path, "rows.jsonl", lines(hh("a: b\n\nc", "d"))))

    assert summary["layout"] == "hh"
    assert json.loads(rows[0]["messages"]) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "why?"},
    ]
    assert rows[0]["prompt"] == "Human: hi\n\nAssistant: hello\n\nHuman: why?"
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("a: b\n\nc", "d")


def test_hh_pairs_whose_dialogues_differ_are_dropped_and_listed(tmp_path: Path) -> None:
    other = {"chosen": hh("a", "b")["chosen"], "rejected": "\n\nHuman: other\n\nAssistant: b"}
    longer = {"chosen": hh("a", "b")["chosen"], "rejected": hh("b\n\nHuman: and?\n\nAssistant: c", "")["chosen"]}

    summary, rows, rejects = imported(written(tmp_path, "rows.jsonl", lines(hh("a", "b"), other, longer, hh("", "b"))))

    assert summary["rejected"] == {"empty": 1, "prefix_differs": 2}
    assert ([row["row_id"] for row in rows], [item["line"] for item in rejects]) == ([1], [2, 3, 4])


def reply(text: str, rank: int | None, *replies: Any, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "rank": rank, "replies": list(replies), **more}


def tree(*replies: Any) -> dict[str, Any]:
    return {"message_tree_id": "t", "prompt": reply("question", None, *replies, role="prompter")}


TREE = tree(
    reply("second", 1),
    reply("best", 0, reply("more?", None, reply("yes", 0), reply("no", 1), reply("who", None), role="prompter")),
    reply("third", 2),
)


def pairs(rows: list[Any]) -> set[tuple[str, str]]:
    return {(row["chosen"], row["rejected"]) for row in rows}


def test_trees_become_pairs_of_adjacent_ranks_and_unranked_replies_are_listed(tmp_path: Path) -> None:
    summary, rows, rejects = imported(written(tmp_path, "trees.jsonl", lines(TREE)))

    assert summary["layout"] == "oasst"
    assert pairs(rows) == {("best", "second"), ("second", "third"), ("yes", "no")}
    assert summary["rejected"] == {"no_rank": 1}
    assert "who" in rejects[0]["reason"]
    assert len({row["root"] for row in rows}) == 1
    nested = next(row for row in rows if row["chosen"] == "yes")
    assert [m["content"] for m in json.loads(nested["messages"])] == ["question", "best", "more?"]


def test_trees_become_pairs_of_all_ranks_on_request(tmp_path: Path) -> None:
    _, rows, _ = imported(written(tmp_path, "trees.jsonl", lines(TREE)), Options(kind="preference", all_ranks=True))

    assert pairs(rows) == {("best", "second"), ("second", "third"), ("best", "third"), ("yes", "no")}


def test_trees_give_rank_0_replies_as_targets_and_every_human_turn_as_prompt(tmp_path: Path) -> None:
    path = written(tmp_path, "trees.jsonl", lines(TREE))

    assert {row["target"] for row in imported(path, Options(kind="sft"))[1]} == {"best", "yes"}
    assert len(imported(path, Options(kind="prompts"))[1]) == 2


def test_deleted_and_equally_ranked_replies_are_listed(tmp_path: Path) -> None:
    spoilt = tree(reply("a", 0), reply("b", 0), reply("gone", 1, deleted=True))

    summary, _, _ = imported(written(tmp_path, "trees.jsonl", lines(TREE, spoilt)))

    assert summary["rejected"] == {"deleted": 1, "equal_rank": 1, "no_rank": 1}


def test_tldr_comparisons_become_post_and_chosen_summary(tmp_path: Path) -> None:
    info = {"id": "t3", "post": " long story ", "title": "Title", "subreddit": "AskReddit"}
    summaries = [{"text": " bad", "policy": "p0"}, {"text": " good", "policy": "p1"}]
    record = {"info": info, "summaries": summaries, "choice": 1, "worker": "w"}

    summary, rows, _ = imported(written(tmp_path, "batch.json", lines(record, {**record, "choice": 2})))

    assert summary["layout"] == "tldr"
    assert summary["rejected"] == {"no_choice": 1}
    assert rows[0]["prompt"] == "SUBREDDIT: r/AskReddit\n\nTITLE: Title\n\nPOST: long story"
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("good", "bad")
    assert json.loads(rows[0]["meta"])["chosen_policy"] == "p1"


def test_prompts_and_responses_may_be_message_lists_with_the_prompt_inside_the_responses(tmp_path: Path) -> None:
    user, bot = {"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}
    explicit = {"prompt": [user], "chosen": [bot], "rejected": [{**bot, "content": "no"}]}
    implicit = {"chosen": [user, {**bot, "content": "a"}], "rejected": [user, {**bot, "content": "b"}]}
    both = {"prompt": "q", "chosen": [user, {**bot, "content": "1"}], "rejected": [user, {**bot, "content": "2"}]}

    _, rows, _ = imported(written(tmp_path, "rows.jsonl", lines(explicit, implicit, both)))

    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        ("q", "yes", "no"),
        ("q", "a", "b"),
        ("q", "1", "2"),
    ]


def test_targets_come_from_columns_dialogues_and_chosen_responses(tmp_path: Path) -> None:
    sft = Options(kind="sft")
    dialogue = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "t"}]}
    sources = [
        {"prompt": "q", "target": "t"},
        {"prompt": "q", "completion": "t"},
        dialogue,
        hh("t", "u", "\n\nHuman: q"),
    ]

    for number, source in enumerate(sources):
        _, rows, _ = imported(written(tmp_path, f"{number}.jsonl", lines(source)), sft)
        assert [(row["prompt"], row["target"]) for row in rows] == [("q", "t")]


def test_a_mapping_names_the_columns_and_the_root(tmp_path: Path) -> None:
    mapping = {"prompt": "q", "chosen": "good", "rejected": "bad", "root": "thread", "meta": ["votes"]}
    records = [{"q": f"q{i}", "good": "g", "bad": "b", "thread": 7, "votes": i, "other": 1} for i in range(2)]

    _, rows, _ = imported(written(tmp_path, "rows.jsonl", lines(*records)), Options(kind="preference", mapping=mapping))

    assert len({row["root"] for row in rows}) == 1
    assert rows[0]["root"] != conversation_root([{"role": "user", "content": "q0"}])
    assert json.loads(rows[1]["meta"]) == {"votes": 1}


def test_roots_of_rows_that_were_imported_before_are_kept_as_they_are(tmp_path: Path) -> None:
    mapping = {name: name for name in ("prompt", "chosen", "rejected", "root")}
    path = written(tmp_path, "rows.jsonl", lines({**GOOD, "root": "0123456789abcdef"}))
    options = Options(kind="preference", layout="preference", mapping=mapping, keep_roots=True)
    _, rows, _ = imported(path, options)
    assert [row["root"] for row in rows] == ["0123456789abcdef"]
    _, rows, _ = imported(path, Options(kind="preference", layout="preference", mapping=mapping))
    assert rows[0]["root"] != "0123456789abcdef"


def test_a_mapped_column_that_is_missing_is_named_with_those_there_are(tmp_path: Path) -> None:
    options = Options(kind="preference", mapping={"prompt": "q", "chosen": "good", "rejected": "bad"})

    with pytest.raises(UserError, match="'q', mapped to prompt; there are 'prompt', 'chosen', 'rejected'"):
        import_file(written(tmp_path, "rows.jsonl", lines(GOOD)), tmp_path, options)


def test_unknown_columns_a_kind_without_responses_and_an_empty_file_are_explained(tmp_path: Path) -> None:
    unknown = written(tmp_path, "a.jsonl", lines({"x": 1, "y": 2}))
    targets = written(tmp_path, "b.jsonl", lines({"prompt": "a", "target": "b"}))

    with pytest.raises(UserError, match=r"no known layout has the columns 'x', 'y'.*column mapping"):
        import_file(unknown, tmp_path, PREFERENCE)
    with pytest.raises(UserError, match=r"the layout sft holds no chosen and rejected"):
        import_file(targets, tmp_path, PREFERENCE)
    with pytest.raises(UserError, match="holds no rows"):
        import_file(written(tmp_path, "c.jsonl", "\n\n"), tmp_path, PREFERENCE)
    with pytest.raises(UserError, match=r"`?layout`? must be one of auto, hh"):
        Options(kind="preference", layout="nonsense")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"column mapping of `prompt` must be a column name, received 3"):
        Options(kind="preference", mapping={"prompt": 3})


def test_odd_records_before_the_layout_is_known_cost_themselves(tmp_path: Path) -> None:
    summary, rows, _ = imported(written(tmp_path, "rows.jsonl", lines({}, {"x": 1}, GOOD)))

    assert (summary["rejected"], summary["layout"], len(rows)) == ({"unknown_layout": 2}, "preference", 1)
    with pytest.raises(UserError, match="no known layout has the columns 'x'"):
        import_file(written(tmp_path, "rows.jsonl", lines(*[{"x": 1}] * 50, GOOD)), tmp_path, PREFERENCE)


# Formats

ROWS = [{**GOOD, "prompt": f'prompt {i} “ünïcode”, with "quotes"\nand lines'} for i in range(300)]


def as_csv(records: list[dict[str, str]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def as_parquet(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


FORMATS = {
    "a.jsonl": lines(*ROWS).encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(*ROWS).encode(),
    "lines.json": lines(*ROWS).encode(),
    "array.json": json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "a.csv": as_csv(ROWS),
    "semicolons.csv": as_csv(ROWS, ";"),
    "a.tsv": as_csv(ROWS, "\t"),
    "a.parquet": as_parquet(ROWS),
    "a.jsonl.gz": gzip.compress(lines(*ROWS).encode()),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.csv.gz": gzip.compress(as_csv(ROWS)),
    "misnamed.jsonl": gzip.compress(lines(*ROWS).encode()),
    "upload": lines(*ROWS).encode(),
    "parquet": as_parquet(ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    _, rows, _ = imported(written(tmp_path, name, FORMATS[name]))

    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        (record["prompt"], "b", "c") for record in ROWS
    ]


def test_message_lists_survive_parquet(tmp_path: Path) -> None:
    record = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}

    assert imported(written(tmp_path, "a.parquet", as_parquet([record])))[1][0]["prompt"] == "q"


def test_bad_elements_of_an_array_cost_themselves(tmp_path: Path) -> None:
    good = [json.dumps({**GOOD, "prompt": f"p{i}"}).encode() for i in range(4)]
    broken = b'{"prompt": "a" "chosen": 1}'
    data = b"[" + b",".join([good[0], broken, good[1], b'{"prompt": "\xff"}', good[2], b"NaN", good[3]]) + b"]"

    summary, rows, rejects = imported(written(tmp_path, "a.json", data))

    assert summary["rejected"] == {"invalid_json": 1, "invalid_utf8": 1, "not_finite": 1}
    assert [row["row_id"] for row in rows] == [1, 3, 5, 7]
    assert [item["line"] for item in rejects] == [2, 4, 6]


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_an_array_reads_the_same_in_chunks_of_any_size(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [json.dumps({**GOOD, "prompt": f"p{i} é"}, ensure_ascii=False).encode() for i in range(3)]
    data = (
        b"[ " + b" ,\n".join([good[0], b'{"prompt": "a" "b"}', good[1], b'{"x": "\xc3"}', b"1234", good[2]]) + b"\n]\n"
    )
    monkeypatch.setattr("rso_core.text_readers._CHUNK", chunk)

    _, rows, rejects = imported(written(tmp_path, "a.json", data))

    assert [(row["row_id"], row["prompt"]) for row in rows] == [(1, "p0 é"), (3, "p1 é"), (6, "p2 é")]
    found = [(item["line"], item["code"]) for item in rejects]
    assert found == [(2, "invalid_json"), (4, "invalid_utf8"), (5, "wrong_type")]


def test_an_array_that_ends_in_its_middle_or_goes_on_after_its_end_says_so(tmp_path: Path) -> None:
    good = json.dumps(GOOD)

    for text in (f"[{good},", f"[{good}", f"[{good}] []", f'[{good}, {{"prompt": "a'):
        assert imported(written(tmp_path, "a.json", text))[0]["rejected"] == {"invalid_json": 1}, text


def test_csv_records_of_another_width_or_in_another_encoding_cost_themselves(tmp_path: Path) -> None:
    data = b'prompt,chosen,rejected\na,b,c\na,b\nx,\xff,c\n\n"q\nr",b,c\nl,m,n\n'

    summary, rows, rejects = imported(written(tmp_path, "a.csv", data))

    assert summary["rejected"] == {"invalid_utf8": 1, "wrong_columns": 1}
    assert [row["row_id"] for row in rows] == [2, 6, 8]
    assert [item["line"] for item in rejects] == [3, 4]


def test_a_csv_header_must_name_each_column_differently(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must name the columns, each differently; received: a, a"):
        import_file(written(tmp_path, "a.csv", "a,a\n1,2\n"), tmp_path, PREFERENCE)


@pytest.mark.parametrize("name", ["a.jsonl", "array.json", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_a_file_beyond_the_decoded_budget_or_the_rows_is_refused_with_the_limit(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, FORMATS[name])

    with pytest.raises(UserError, match=r"more than 2,000 bytes once decoded.*split it"):
        import_file(path, tmp_path, Options(kind="preference", limits=Limits(decoded_bytes=2000)))
    with pytest.raises(UserError, match=r"more than 10 rows.*split it"):
        import_file(path, tmp_path, Options(kind="preference", limits=Limits(rows=10)))


def test_a_gzip_bomb_stops_at_the_budget(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl.gz", gzip.compress(b" " * 50_000_000))

    with pytest.raises(UserError, match="more than 1,000,000 bytes once decoded"):
        import_file(path, tmp_path, Options(kind="preference", limits=Limits(decoded_bytes=1_000_000)))


def test_damaged_and_unknown_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged gzip"):
        import_file(written(tmp_path, "a.jsonl.gz", FORMATS["a.jsonl.gz"][:-40]), tmp_path, PREFERENCE)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        import_file(written(tmp_path, "a.parquet", b"PAR1 no more"), tmp_path, PREFERENCE)
    with pytest.raises(UserError, match=r"no known format: give it the ending \.jsonl"):
        import_file(written(tmp_path, "a.docx", "hello"), tmp_path, PREFERENCE)


def test_records_of_several_files_are_numbered_on(tmp_path: Path) -> None:
    paths = [written(tmp_path, f"{i}.jsonl", lines({**GOOD, "prompt": f"p{i}"}, "{")) for i in range(2)]

    summary = import_files(paths, tmp_path, PREFERENCE)

    assert [row["row_id"] for row in iterate_rows([tmp_path / "rows.arrow"])] == [1, 3]
    assert summary["rows_rejected"] == 2


def test_progress_counts_the_bytes_on_disk(tmp_path: Path) -> None:
    path = written(
        tmp_path, "a.jsonl.gz", gzip.compress(lines(*({**GOOD, "prompt": str(i)} for i in range(2500))).encode())
    )
    seen: list[tuple[int, int]] = []

    import_file(path, tmp_path, PREFERENCE, on_progress=lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


# Derived data and records that a program makes


def test_targets_are_made_of_chosen_replies_once_each_and_of_trees_only_the_best(tmp_path: Path) -> None:
    out = tmp_path / "derived"
    out.mkdir()
    import_file(written(tmp_path, "t.jsonl", lines(TREE)), tmp_path, Options(kind="preference", all_ranks=True))

    summary = import_sft_from([tmp_path / "rows.arrow"], out)

    rows = list(iterate_rows([out / "rows.arrow"]))
    assert {row["target"] for row in rows} == {"best", "yes"}
    assert summary["rejected"] == {"duplicate": 1, "not_best": 1}
    assert {row["root"] for row in rows} == {row["root"] for row in iterate_rows([tmp_path / "rows.arrow"])}
    assert set(rows[0]) == set(COLUMNS["sft"])


def test_records_of_a_program_keep_their_meta(tmp_path: Path) -> None:
    facts = {"facts": {"who": "sister", "long": "x" * 10_000}}

    summary = import_records([{**GOOD, "meta": facts}], tmp_path, PREFERENCE)

    assert json.loads(next(iterate_rows([tmp_path / "rows.arrow"]))["meta"]) == facts
    assert summary["rows_kept"] == 1


# Whatever the bytes are


@settings(max_examples=60, deadline=None)
@example(changes=[(103272, b"\x80")])  # in a column's name
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_a_damaged_parquet_file_ends_in_a_message_or_loses_only_rows_it_lists(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(FORMATS["a.parquet"])
    for position, value in changes:
        start = position % len(data)
        data[start : start + len(value)] = value
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UserError):
        imported(written(Path(folder), "a.parquet", bytes(data)))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["prompt", "chosen", "rejected", "info", "summaries", "choice", "messages", "meta", "replies", "message_tree_id"]
)
RECORDS = st.dictionaries(NAMES, JSON_VALUES, max_size=6).map(json.dumps)
LINES = st.lists(
    st.one_of(RECORDS.map(str.encode), st.binary(max_size=30), st.just(json.dumps(GOOD).encode())), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(
    parts=LINES,
    glue=st.sampled_from([b"\n", b",", b"\r\n", b", "]),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a"]),
    compress=st.booleans(),
    layout=st.sampled_from(["auto", "hh", "oasst", "tldr", "preference"]),
)
def test_no_bytes_crash_an_import_and_no_row_is_lost(
    parts: list[bytes],
    glue: bytes,
    name: str,
    compress: bool,  # noqa: FBT001 - drawn
    layout: Any,
) -> None:
    data = glue.join(parts)
    data = b"[" + data + b"]" if name.startswith("a.json") and glue.startswith(b",") else data
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), name, gzip.compress(data) if compress else data)
        with contextlib.suppress(UserError):
            imported(path, Options(kind="preference", layout=layout))
