"""The stages that bring data and models in, and the one that says how long their texts are."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rso_core import importers
from rso_core.artifacts import MANIFEST
from rso_core.errors import UserError
from rso_core.importers import Options
from rso_core.protocol import Progress
from rso_core.stages import Job

PROFILE = "profile.json"
_REPORT_SECONDS = 0.5


def import_dataset(job: Job) -> dict[str, Any]:
    """Import rows from an upload, the hub, the built-in task, or the chosen replies of an imported dataset."""
    summary = _imported(job)
    job.log(
        f"{summary['rows_in']:,} rows in = {summary['rows_kept']:,} kept + {summary['rows_rejected']:,} rejected "
        f"(layout: {summary['layout']})"
    )
    return summary


def _imported(job: Job) -> dict[str, Any]:
    config = job.config
    if "dataset" in job.spec.inputs:
        return importers.import_sft_from(job.files("dataset"), job.staging)
    options = _options(config)
    if "upload" in job.spec.inputs:
        path = uploaded_file(job)
        return {**importers.import_file(path, job.staging, options, on_progress=_Bytes(job)), "file": path.name}
    if "hub" in config:
        return _from_hub(job, options)
    if "mini_tldr" in config:
        from rso_core.mini_tldr import generate_dataset

        records = generate_dataset(options.kind, **config["mini_tldr"])
        return importers.import_records(records, job.staging, options)
    if "mini_news" in config:
        from rso_core.mini_news import generate_articles

        return importers.import_records(generate_articles(**config["mini_news"]), job.staging, options)
    message = (
        "an import needs a source: an uploaded file, `hub` (a hub id), `mini_tldr` or `mini_news` (the built-in task)"
    )
    raise UserError(message)


def _options(config: dict[str, Any]) -> Options:
    return Options(
        kind=config["kind"],
        layout=config.get("layout") or "auto",
        mapping=config.get("mapping") or {},
        all_ranks=bool(config.get("all_ranks", False)),
        keep_roots=bool(config.get("keep_roots", False)),
    )


def uploaded_file(job: Job) -> Path:
    """Return the one file of the artifact `upload`."""
    folder = job.store.path(job.spec.inputs["upload"])
    files = [path for path in folder.iterdir() if path.name != MANIFEST]
    if len(files) != 1:
        message = f"an upload is one file, this one holds {len(files)}; upload a single file"
        raise UserError(message)
    return files[0]


def _from_hub(job: Job, options: Options) -> dict[str, Any]:
    from rso_core.hub_datasets import download

    config = job.config
    with _scratch(job) as folder:
        job.log(f"downloading {config['hub']}")
        found = download(
            config["hub"], folder, revision=config.get("revision") or "main", file=config.get("file") or "",
            split=config.get("split") or "",
        )  # fmt: skip
        summary = importers.import_files(found.paths, job.staging, options, on_progress=_Bytes(job))
        files = [path.relative_to(folder).as_posix() for path in found.paths]
    return {**summary, "hub": config["hub"], "commit": found.commit, "files": files}


@contextmanager
def _scratch(job: Job) -> Iterator[Path]:
    """Give a folder beside the staging folder, on the same disk, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="download-", dir=job.staging.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Bytes:
    """Reports bytes read, at most twice a second."""

    def __init__(self, job: Job) -> None:
        self._emit, self._last = job.emit, 0.0

    def __call__(self, done: int, total: int) -> None:
        if done >= total or time.monotonic() - self._last > _REPORT_SECONDS:
            self._last = time.monotonic()
            self._emit(Progress(done=done, total=total, unit="bytes"))


def import_model(job: Job) -> dict[str, Any]:
    """Bring a model into the folder `model`: an uploaded GGUF file, a folder or file of the server, the hub, or built in."""
    from rso_core.models import describe

    config, target = job.config, job.staging / "model"
    if "mini_tldr" in config:
        from rso_core.mini_tldr_model import write_base_model

        return describe(write_base_model(target, **config["mini_tldr"]))
    from rso_core.model_import import convert, download

    if "upload" in job.spec.inputs:
        return convert(uploaded_file(job), target)
    if "path" in config:
        return convert(Path(config["path"]), target)
    if "hub" in config:
        revision = config.get("revision") or "main"
        with _scratch(job) as folder:
            job.log(f"downloading {config['hub']} at {revision}")
            return convert(download(config["hub"], revision, folder), target)
    message = "a model import needs a source: an uploaded GGUF file, `path` (a folder or GGUF file of the server), `hub` (a hub id) or `mini_tldr`"
    raise UserError(message)


def length_profile(job: Job) -> dict[str, Any]:
    """Count the tokens of the datasets under the model's tokenizer; write histograms and one tokenised example.

    Any of the inputs `sft`, `preferences` and `prompts` may be missing. Needs the tokenizer only, no weights.
    """
    from rso_core.lengths import Profiler
    from rso_core.models import load_tokenizer

    tokenizer, family = load_tokenizer(job.model_folder("base"))
    profiler = Profiler(tokenizer, family, job.config)
    names = [name for name in ("sft", "preferences", "prompts") if name in job.spec.inputs]
    profile = profiler.profile({name: job.files(name) for name in names}, job)
    (job.staging / PROFILE).write_text(json.dumps(profile, ensure_ascii=False, sort_keys=True), encoding="utf-8")
    return {name: profile[name] for name in ("datasets", "template", "tokenizer_digest")}
