"""A runner that does what the `script` of its configuration says, to make supervision meet every ending."""

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rso_core.artifacts import ArtifactStore
from rso_core.protocol import Event, Failure, Metrics, Progress, Result, StageSpec
from rso_core.vocabulary import canonical_json


def read_specs(specs: queue.SimpleQueue[StageSpec]) -> None:
    for line in sys.stdin:
        specs.put(StageSpec.model_validate_json(line))
    os._exit(0)  # the supervisor has gone


def say(event: Event) -> None:
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


def commit(spec: StageSpec) -> str:
    """Commit an artifact that depends on everything the work may depend on, and on nothing else."""
    store = ArtifactStore(os.environ["RSO_ARTIFACT_URL"], Path(os.environ["RSO_ARTIFACT_CACHE"]))
    content = {name: store.manifest(digest)["digest"] for name, digest in spec.inputs.items()}
    folder = store.staging()
    (folder / "content.json").write_text(canonical_json([spec.kind, spec.config, content, spec.shard_index]))
    return store.commit(folder, kind=spec.kind)


def act(step: dict[str, Any], spec: StageSpec) -> None:  # noqa: C901 - one case for each step a script may hold
    match step:
        case {"progress": int(done)}:
            say(Progress(done=done, total=10, unit="steps", tokens_per_second=5.0))
        case {"metrics": int(number)}:
            say(Metrics(step=number, values={"loss": 1.0 / number}))
        case {"print": str(text)}:
            sys.stdout.write(text + "\n")
        case {"fail": "user" | "out_of_memory" | "transient" | "internal" as reason}:
            say(Failure(reason=reason, message="as the script says", traceback="Traceback …"))
        case {"kill": int(number)}:
            os.kill(os.getpid(), number)
        case {"exit": int(code)}:
            sys.stderr.write("last words\n")
            sys.stderr.flush()
            os._exit(code)
        case {"ignore_term": _}:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case {"sleep": int() | float() as seconds}:
            time.sleep(seconds)
        case {"result": _}:
            say(Result(digest=f"{os.getpid():064x}", summary={"shard": spec.shard_index, "prompts": 1}))
        case {"commit": _}:
            say(Result(digest=commit(spec), summary={"prompts": 1}))


def main() -> None:
    specs: queue.SimpleQueue[StageSpec] = queue.SimpleQueue()
    threading.Thread(target=read_specs, args=(specs,), daemon=True).start()
    while True:
        spec = specs.get()
        for step in spec.config["script"]:
            act(step, spec)


if __name__ == "__main__":
    main()
