"""A runner that does what the `script` of its configuration says, to make supervision meet every ending."""

import os
import signal
import sys
import threading
import time

from rso_core.protocol import Failure, Log, Metrics, Progress, Result, StageSpec


def leave_when_input_closes(lines: list[StageSpec], arrived: threading.Semaphore) -> None:
    for line in sys.stdin:
        lines.append(StageSpec.model_validate_json(line))
        arrived.release()
    os._exit(0)


def say(event: Progress | Metrics | Log | Result | Failure) -> None:
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


def act(step: dict[str, object], spec: StageSpec) -> None:
    match step:
        case {"progress": int(done)}:
            say(Progress(done=done, total=10, unit="steps", tokens_per_second=5.0))
        case {"metrics": int(number)}:
            say(Metrics(step=number, values={"loss": 1.0 / number}))
        case {"print": str(text)}:
            sys.stdout.write(text + "\n")
        case {"fail": str(reason)}:
            say(Failure(reason=reason, message="as the script says", traceback="Traceback …"))
        case {"kill": int(number)}:
            os.kill(os.getpid(), number)
        case {"exit": int(code)}:
            sys.stderr.write("last words\n")
            sys.stderr.flush()
            os._exit(code)
        case {"ignore_term": _}:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case {"sleep": int(seconds)}:
            time.sleep(seconds)
        case {"result": _}:
            say(Result(digest=f"{os.getpid():064x}", summary={"shard": spec.shard_index, "prompts": 1}))


def main() -> None:
    specs: list[StageSpec] = []
    arrived = threading.Semaphore(0)
    threading.Thread(target=leave_when_input_closes, args=(specs, arrived), daemon=True).start()
    while True:
        arrived.acquire()
        spec = specs.pop(0)
        for step in spec.config["script"]:
            act(step, spec)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
