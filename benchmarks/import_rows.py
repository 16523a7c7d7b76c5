"""Measure an import of many HH-sized rows: seconds and peak memory of a process that does nothing else.

    python benchmarks/import_rows.py [--rows 160000] [--format jsonl|jsonl.gz|json|csv|parquet] [--save]

The rows are made deterministically, as long as those of HH (about 1,400 bytes a pair). Exits with 1 above the
limits that the product promises: 90 s and 1 GB for 160,000 rows. With --save the
result is kept in `results/import_rows.json` beside those of the other formats.
"""

import argparse
import csv
import gzip
import itertools
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SECONDS, BYTES = 90, 1 << 30
_WORDS = (
    "the",
    "question",
    "is",
    "whether",
    "you",
    "can",
    "help",
    "me",
    "with",
    "a",
    "recipe",
    "for",
    "bread",
    "naïve",
    "“quoted”",
)


def transcripts(rows: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield HH-like pairs: a dialogue of one to five turns and two replies."""
    rng = random.Random(seed)  # noqa: S311 - text, no secret

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(_WORDS, k=rng.randint(low, high)))

    for number in range(rows):
        turns = "".join(f"\n\nHuman: {words(5, 30)}\n\nAssistant: {words(10, 50)}" for _ in range(rng.randint(0, 2)))
        prefix = f"{turns}\n\nHuman: question {number}: {words(5, 30)}\n\nAssistant:"
        yield {"chosen": f"{prefix} {words(10, 60)} a", "rejected": f"{prefix} {words(10, 60)} b"}


def write(path: Path, rows: int) -> None:
    """Write the rows in the format that the ending names."""
    if path.suffix == ".parquet":
        _write_parquet(path, rows)
        return
    file: Any = gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8")  # noqa: SIM115 - closed below
    with file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, ["chosen", "rejected"])
            writer.writeheader()
            writer.writerows(transcripts(rows))
        elif path.suffix == ".json":
            file.write("[")
            file.writelines(("," if number else "") + json.dumps(row) for number, row in enumerate(transcripts(rows)))
            file.write("]")
        else:
            file.writelines(json.dumps(row) + "\n" for row in transcripts(rows))


def _write_parquet(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    source = transcripts(rows)
    with pa.parquet.ParquetWriter(path, pa.schema([("chosen", pa.string()), ("rejected", pa.string())])) as writer:
        while batch := list(itertools.islice(source, 10_000)):
            writer.write_table(pa.Table.from_pylist(batch))


def import_and_report(path: Path, out: Path) -> None:
    """Import, then print seconds and peak memory of this process as JSON."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.worker import peak_bytes
    from rso_core.importers import Options, import_file

    start = time.monotonic()
    summary = import_file(path, out, Options(kind="preference"))
    seconds, processor = round(time.monotonic() - start, 1), round(time.process_time(), 1)
    print(
        json.dumps({"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak_bytes(), "summary": summary})
    )


def measure(rows: int, ending: str) -> dict[str, Any]:
    """Return what an import of `rows` rows took, done by a process of its own."""
    import pyarrow as pa

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{ending}"
        write(path, rows)
        command = [sys.executable, __file__, "--child", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
        result = json.loads(done.stdout)
        size = path.stat().st_size
    return {
        "command": f"python benchmarks/import_rows.py --rows {rows} --format {ending}",
        "rows": rows,
        "file_bytes": size,
        **{name: result[name] for name in ("seconds", "processor_seconds", "peak_bytes")},
        "rows_kept": result["summary"]["rows_kept"],
        "rows_rejected": result["summary"]["rows_rejected"],
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "machine": platform.machine(),
    }


def keep(result: dict[str, Any], ending: str) -> None:
    """Write a result beside those of the other formats."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.harness import RESULTS, machine, save

    file = RESULTS / "import_rows.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    formats = {ending: result} if not isinstance(earlier, dict) else earlier["formats"] | {ending: result}
    about = {"name": "import_rows", "rows": result["rows"], "target": {"seconds": SECONDS, "bytes": BYTES}}
    save({**about, "measured_on": machine(), "formats": formats}, RESULTS)


def main() -> None:
    """Measure, print, and save if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--format", default="jsonl", choices=["jsonl", "jsonl.gz", "json", "csv", "parquet"])
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import_and_report(options.child, options.child.parent)
        return
    result = measure(options.rows, options.format)
    print(json.dumps(result, indent=1))
    if options.save:
        keep(result, options.format)
    sys.exit(result["seconds"] > SECONDS or result["peak_bytes"] > BYTES)


if __name__ == "__main__":
    main()
