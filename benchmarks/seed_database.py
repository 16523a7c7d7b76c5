"""Fill an empty database with as much work as a busy product holds, in minutes.

    DATABASE_URL=… RSO_VAR_DIR=… python -m benchmarks.seed_database [--runs 1000] [--pairs 1000000] [--dataset-rows 160000]

What was made stands in `seeded.json` of the data folder then, for `python -m benchmarks.web_pages`.

One run of every system of the paper goes through the product's own services, with small artifacts of the layout that the
stages write; its rows are then copied inside PostgreSQL under new keys. A run has about ten stages of its own and shares
the others, as runs with one base model do. One run holds 160,000 pairs (HH, trained on directly), the others share the rest
evenly. With them come curves, logs, attempts, datasets, models, people, audit entries, sessions, workers, and campaigns
that were answered. The largest dataset is imported for real, from rows as long as those of HH.

Nothing here is meant for a database that somebody uses: it refuses one that holds runs.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from rso_core.config import LossName, PairSource

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # a script finds its own folder, not the project's
    sys.path.insert(0, str(ROOT))

# ruff: noqa: S608 - names of tables and columns come from the models
_SHARED = frozenset({"length_profile", "sft", "generation_sft"})
_LIVE, _FAILED_EVERY = 3, 40
NOTE = "seeded.json"
_WORDS = "the author asks whether a heater can be mended before winter or not and what it would cost them"


@dataclass(frozen=True)
class Sizes:
    """How much there is. The largest run has at most `largest_run` pairs, and at most half of all."""

    runs: int = 1000
    pairs: int = 1_000_000
    largest_run: int = 160_000
    prompts: int = 1000  # of the run whose pool is looked at
    dataset_rows: int = 160_000
    datasets: int = 200
    models: int = 300
    log_lines: int = 20  # of each stage
    people: int = 60
    audit: int = 100_000
    sessions: int = 5000
    campaigns: int = 40
    seeds: int = 5  # of the study
    items: int = 300  # of each campaign; the first has seven times as many


@dataclass(frozen=True)
class Seeded:
    """The keys of what was made: what pages are asked for."""

    owner: int
    rater: int
    runs: dict[str, int]
    dataset: int
    campaign: int
    open_campaign: int
    study: int


def seed(sizes: Sizes) -> Seeded:
    """Fill the database that Django uses. Raises SystemExit when it holds runs already."""
    from webapp.accounts.models import Role, User
    from webapp.runs.models import Run

    if Run.objects.exists():
        message = "this database holds runs already; name an empty one with DATABASE_URL"
        raise SystemExit(message)
    owner = User.objects.create_user("bench", password=uuid4().hex, role=Role.ADMIN)
    templates = _templates(owner, sizes)
    dataset = _large_dataset(owner, sizes.dataset_rows)
    grow(sizes, templates)
    study = _study(owner, sizes.seeds)
    campaign, open_campaign, rater = _campaigns(owner, sizes)
    analyse()
    return Seeded(owner.pk, rater, templates, dataset, campaign, open_campaign, study)


def analyse() -> None:
    """Let PostgreSQL look at its tables, as autovacuum does in a product that has run for a while."""
    _execute("ANALYZE")


# Runs ------------------------------------------------------------------------------------------------------------------


def _templates(owner: Any, sizes: Sizes) -> dict[str, int]:
    """Make a finished run of each system, one that goes on and one that failed, by the product's own services."""
    from tests.webapp import made_runs
    from webapp.runs.models import RegisteredModel, Run, RunStage, Stage

    made_runs.imported(owner, prompts=sizes.prompts)
    RegisteredModel.objects.update(summary={"parameters": 134_515_008, "vocabulary": 49_152})
    kinds: dict[str, tuple[PairSource, LossName]] = {
        "rso": ("rso_sample_rank", "sigmoid_norm"), "slic": ("sft_sample_rank", "hinge"), "dpo": ("direct", "sigmoid_norm"),
    }  # fmt: skip
    found = {}
    for seed_, (name, (source, loss)) in enumerate(kinds.items()):
        config = made_runs.config_of(name, seed=seed_, pair_source=source, loss=loss)
        found[name] = made_runs.finish_run(made_runs.launched(owner, config)).pk
    found["live"] = _live_run(owner)
    failed = made_runs.launched(owner, made_runs.config_of("failed", seed=10))
    made_runs.finish_run(failed, until="policy_fitting")
    stage = RunStage.objects.get(run=failed, key="policy_fitting").stage_id
    Stage.objects.filter(pk=stage).update(
        status="out_of_memory", message="the device is too small", traceback=_WORDS * 20
    )
    Run.objects.filter(pk=failed.pk).update(status="out_of_memory", message="the device is too small")
    return found | {"failed": failed.pk}


def _live_run(owner: Any) -> int:
    """Make a run whose fitting is under way, in the hands of a worker that is never given up."""
    from tests.webapp import made_runs
    from webapp.runs import jobs
    from webapp.runs.models import Run, RunStage, Shard, Stage

    live = made_runs.launched(owner, made_runs.config_of("live", seed=9))
    made_runs.finish_run(live, until="checkpoint_selection")
    fitting = RunStage.objects.get(run=live, key="checkpoint_selection").stage_id
    jobs.claim(stage_id=fitting, worker="gpu1@here")
    Shard.objects.filter(stage=fitting).update(lease_expires="2100-01-01T00:00:00Z", progress_total=100_000)
    others = Stage.objects.filter(run_stages__run=live, status="ready").values_list("pk", flat=True)
    for stage in others:
        jobs.claim(stage_id=stage, worker="gpu1@here")
        Shard.objects.filter(stage=stage).update(lease_expires="2100-01-01T00:00:00Z")
    Run.objects.filter(pk=live.pk).update(shared=True)
    return int(live.pk)


def grow(sizes: Sizes, templates: Mapping[str, int]) -> None:
    """Copy the template runs until there are `sizes.runs`, and give all of them pairs, lines, and what stands beside runs."""
    finished = [templates[name] for name in ("rso", "slic", "dpo")]
    missing = sizes.runs - _count("runs_run")
    special = {"live": min(_LIVE, missing // 3), "failed": missing // _FAILED_EVERY}
    for name, copies in special.items():
        _copy_run(templates[name], copies)
        missing -= copies
    for place, run in enumerate(finished):
        _copy_run(run, (missing + place) // len(finished))
    _log_lines(sizes.log_lines)
    _pairs(templates["dpo"], sizes)
    _beside(sizes)


def _copy_run(run: int, copies: int) -> None:
    """Copy a run with the stages it does not share, in a handful of statements."""
    if copies <= 0:
        return
    own = f"SELECT stage_id FROM runs_runstage WHERE run_id = {run} AND key NOT IN ({_listed(_SHARED)})"
    _execute(
        f"CREATE TEMP TABLE copied_run AS SELECT n, nextval('runs_run_id_seq') AS id FROM generate_series(1, {copies}) AS n"
    )
    _execute(f"""CREATE TEMP TABLE copied_stage AS
        SELECT n, old.stage_id AS old, nextval('runs_stage_id_seq') AS id FROM generate_series(1, {copies}) AS n, ({own}) AS old""")
    _execute("CREATE UNIQUE INDEX ON copied_stage (n, old)")
    age = "copied_run.n * interval '9 hours'"
    _copy("run", f"JOIN copied_run ON row.id = {run}", {
        "id": "copied_run.id", "name": "row.name || ' ' || copied_run.id", "created": f"row.created - {age}",
        "finished": f"row.finished - {age}", "launch_token": "NULL", "cloned_from_id": "NULL",
    })  # fmt: skip
    _copy("stage", "JOIN copied_stage ON row.id = copied_stage.old", {
        "id": "copied_stage.id", "fingerprint": "md5('a' || copied_stage.id) || md5('b' || copied_stage.id)",
    })  # fmt: skip
    new = "coalesce((SELECT id FROM copied_stage AS new WHERE new.n = {n} AND new.old = {old}), {old})"
    _copy("runstage", f"JOIN copied_run ON row.run_id = {run}", {
        "run_id": "copied_run.id", "stage_id": new.format(n="copied_run.n", old="row.stage_id"),
    })  # fmt: skip
    stages = "JOIN copied_stage ON row.stage_id = copied_stage.old"
    upstream = new.format(n="copied_stage.n", old="row.upstream_id")
    _copy("stageinput", stages, {"stage_id": "copied_stage.id", "upstream_id": upstream})
    for table in ("shard", "metricpoint", "logline"):
        _copy(table, stages, {"stage_id": "copied_stage.id"})
    _execute("""INSERT INTO runs_attempt (shard_id, number, worker, started, ended, outcome, message)
        SELECT shard.id, 1, 'gpu1@here', now(), now(), 'done', '' FROM runs_shard AS shard
        JOIN copied_stage ON copied_stage.id = shard.stage_id""")
    _execute("DROP TABLE copied_run, copied_stage")


def _copy(table: str, join: str, changed: Mapping[str, str]) -> None:
    """Insert copies of the rows of a table that a join finds, with some columns changed."""
    from django.apps import apps

    fields = apps.get_model("runs", table)._meta.concrete_fields  # noqa: SLF001 - Django's public Meta API
    columns = [field.column for field in fields if field.column != "id" or "id" in changed]
    values = [changed.get(column, f'row."{column}"') for column in columns]
    named = ", ".join(f'"{column}"' for column in columns)
    _execute(f"INSERT INTO runs_{table} ({named}) SELECT {', '.join(values)} FROM runs_{table} AS row {join}")


def _log_lines(each: int) -> None:
    _execute(f"""INSERT INTO runs_logline (stage_id, at, attempt, level, message)
        SELECT stage.id, stage.created + n * interval '7 seconds', 1, 'info', 'step ' || n || ' of {each}: {_WORDS}'
        FROM runs_stage AS stage, generate_series(1, {each}) AS n""")


def _pairs(direct: int, sizes: Sizes) -> None:
    """Add pairs as long as those of HH (about 1,000 characters): many to one run, the rest evenly to the others."""
    stages = "SELECT stage_id FROM runs_runstage WHERE key = 'pairs'"
    largest = f"SELECT stage_id FROM runs_runstage WHERE key = 'pairs' AND run_id = {direct}"
    missing = sizes.pairs - _count("runs_pair")
    many = max(0, min(sizes.largest_run, missing // 2))
    others = _count(f"({stages} EXCEPT {largest}) AS stage")
    each = -(-max(0, missing - many) // max(1, others))  # rounded up: there are at least as many as asked for
    for chosen, count in ((largest, many), (f"{stages} EXCEPT {largest}", each)):
        _execute(f"""INSERT INTO runs_pair (stage_id, index, prompt_id, prompt, chosen, rejected, probability, row_id)
            SELECT stage.stage_id, 1000000 + n, lpad(to_hex(n / 2), 16, '0'), 'Human: question ' || n / 2 || repeat(' {_WORDS}', 5),
                   'Assistant: ' || n || repeat(' {_WORDS}', 2), 'Assistant:' || repeat(' {_WORDS}', 1 + n % 3), NULL, n
            FROM ({chosen}) AS stage, generate_series(1, {count}) AS n""")
    _commit_pairs(direct)


def _commit_pairs(run: int) -> None:
    """Make the artifact of a run's pairs anew from its rows in the database."""
    from rso_core.stages_pairs import PAIRS
    from webapp.runs.models import Pair, RunStage

    stage = RunStage.objects.get(run=run, key="pairs").stage
    columns = [name for name in PAIRS.names if name in {field.name for field in Pair._meta.concrete_fields}]  # noqa: SLF001 - Django's public Meta API
    rows = Pair.objects.filter(stage=stage).order_by("index").values(*columns)
    stage.digest = pairs_artifact(rows.iterator())
    stage.save(update_fields=["digest"])


def pairs_artifact(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of a new artifact of training pairs; columns that a row leaves out are empty."""
    from rso_core.artifacts import ROWS, write_rows
    from rso_core.stages_pairs import PAIRS
    from webapp.runs.artifacts import store

    staging = store().staging()
    write_rows(staging / ROWS, ({**dict.fromkeys(PAIRS.names), **row} for row in rows), PAIRS)
    return store().commit(staging, kind="preference_pairs")


def _beside(sizes: Sizes) -> None:
    """Add datasets, models, people, audit entries, sessions and workers up to their numbers."""
    _execute(f"""INSERT INTO accounts_user (username, password, role, is_superuser, first_name, last_name, email, is_staff,
                                            is_active, date_joined)
        SELECT 'person ' || n || '-' || {_count("accounts_user")}, '!', (ARRAY['researcher', 'rater'])[1 + n % 2], false, '', '', '',
               false, true, now() FROM generate_series(1, {max(0, sizes.people - _count("accounts_user"))}) AS n""")
    for table, count in (("dataset", sizes.datasets), ("registeredmodel", sizes.models)):
        missing = max(0, count - _count(f"runs_{table}"))
        number = "nextval('runs_" + table + "_id_seq')"
        age = {"created": "row.created - n * interval '1 day'", "shared": "n % 3 > 0"}
        first = f"JOIN generate_series(1, {missing}) AS n ON row.id = (SELECT min(id) FROM runs_{table})"
        _copy(table, first, {"name": f"row.name || ' ' || {number}", **age})
    _execute(f"""INSERT INTO accounts_auditentry (at, actor_id, actor_name, action, kind, number, label, details)
        SELECT now() - n * interval '3 minutes', (SELECT min(id) FROM accounts_user), 'bench',
               (ARRAY['launched', 'changed', 'downloaded'])[1 + n % 3], (ARRAY['run', 'dataset'])[1 + n % 2], n, 'thing ' || n,
               '{{"file": "rows.jsonl"}}' FROM generate_series(1, {max(0, sizes.audit - _count("accounts_auditentry"))}) AS n""")
    _execute(f"""INSERT INTO django_session (session_key, session_data, expire_date)
        SELECT md5('session' || n || random()), repeat('x', 300), now() + interval '10 days'
        FROM generate_series(1, {max(0, sizes.sessions - _count("django_session"))}) AS n""")
    _execute("""INSERT INTO runs_worker (name, queue, slots, seen, device)
        SELECT 'worker' || n || '@here', (ARRAY['gpu', 'cpu'])[1 + n % 2], 1, now(), 'CPU' FROM generate_series(1, 4) AS n
        ON CONFLICT DO NOTHING""")


def _large_dataset(owner: Any, rows: int) -> int:
    """Import rows as long as those of HH; return the key of their dataset."""
    from benchmarks.import_rows import write
    from rso_core.importers import Options, import_file
    from webapp.runs.artifacts import store
    from webapp.runs.models import Dataset

    with tempfile.TemporaryDirectory(prefix="rso-bench-") as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, rows)
        staging = store().staging()
        import_file(path, staging, Options(kind="preference"))
    digest = store().commit(staging, kind="import_dataset")
    return Dataset.objects.create(
        owner=owner, name="HH-sized", kind="preference", task="dialogue", digest=digest, rows_in=rows, rows_kept=rows
    ).pk


# Studies -----------------------------------------------------------------------------------------------------------------


def _study(owner: Any, seeds: int) -> int:
    """Make the study of Table 1 over finished runs; it is paused, so that no worker launches any more of it."""
    from rso_core.study_presets import preset_study
    from tests.webapp import made_runs
    from webapp.studies.services import pause_study, start_study

    plan = preset_study("table_1", base=made_runs.config_of("study"), seeds=list(range(seeds)))
    study = start_study(plan=plan, user=owner)
    pause_study(study=study, by=owner)
    fill_study(study)
    return int(study.pk)


def fill_study(study: Any) -> None:
    """Give every cell of a study a finished run that is in no study and takes its pairs from where the cell does."""
    from webapp.runs.models import Run

    source_of = {(cell.arm, cell.seed): cell.config.pairs.pair_source for cell in study.planned_cells}
    for cell in study.cells.filter(run=None):
        finished = Run.objects.filter(status="done", study_cells=None)
        source = source_of[cell.arm, cell.seed]
        cell.run = finished.filter(config__pairs__pair_source=source).order_by("pk").first()
        cell.save(update_fields=["run"])


# Campaigns -------------------------------------------------------------------------------------------------------------


def _campaigns(owner: Any, sizes: Sizes) -> tuple[int, int, int]:
    """Make campaigns that were answered, and an open one with a rater in it; return the largest, the open one, the rater."""
    from benchmarks.rating_campaign import make_campaign as opened
    from webapp.human_eval.models import Participation, Rater

    first = add_campaign(owner, items=7 * sizes.items)
    for _ in range(sizes.campaigns - 2):
        add_campaign(owner, items=sizes.items)
    going_on = opened(owner, "open", tasks=sizes.items, replicas=3)
    rater = Rater.objects.create(origin="invitation")
    Participation.objects.create(campaign=going_on, rater=rater, qualification="passed")
    return first, going_on.pk, rater.pk


def add_campaign(owner: Any, *, items: int) -> int:
    """Make a campaign in which every replica was answered; return its key."""
    from benchmarks.results_page import make_campaign
    from webapp.human_eval.models import Campaign

    campaign = make_campaign(owner, items=items, replicas=3, raters=min(40, items))
    Campaign.objects.filter(pk=campaign.pk).update(name=f"campaign {campaign.pk}")
    return int(campaign.pk)


# SQL -------------------------------------------------------------------------------------------------------------------


def _execute(statement: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)


def _count(rows: str) -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {rows}")
        return int(cursor.fetchone()[0])


def _listed(words: frozenset[str]) -> str:
    return ", ".join(f"'{word}'" for word in sorted(words))


def counted() -> dict[str, int]:
    """Return how many rows the large tables hold."""
    names = ("run", "stage", "pair", "metricpoint", "logline", "dataset", "registeredmodel")
    tables = {f"runs_{name}": name for name in names} | {
        "human_eval_answer": "answer",
        "accounts_auditentry": "audit entry",
    }
    return {word: _count(table) for table, word in tables.items()}


def main() -> None:
    """Fill the database of DATABASE_URL and say with what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size_options(parser)
    sizes = sizes_of(parser.parse_args())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    import django

    django.setup()
    from django.core.management import call_command

    started = time.monotonic()
    call_command("migrate", verbosity=0)
    keep(seed(sizes))
    print(json.dumps({**counted(), "seconds": round(time.monotonic() - started)}))


def keep(seeded: Seeded) -> None:
    """Write down in the data folder what was made and how much there is."""
    from django.conf import settings

    note = {"seeded": asdict(seeded), "rows": counted()}
    (Path(settings.VAR_DIR) / NOTE).write_text(json.dumps(note), encoding="utf-8")


def size_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each size."""
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Return the sizes that were asked for."""
    return Sizes(**{name: getattr(options, name) for name in asdict(Sizes())})


if __name__ == "__main__":
    main()
