"""A runner that says two words and then the whole answer, but stays in the middle while there is a file `hold`."""

import os
import queue
import threading
import time
from pathlib import Path

from rso_core.protocol import Partial, Result, StageSpec
from tests.workers.scripted_runner import read_specs, say

WHOLE = "The cat sat on the mat."


def main() -> None:
    specs: queue.SimpleQueue[StageSpec] = queue.SimpleQueue()
    threading.Thread(target=read_specs, args=(specs,), daemon=True).start()
    hold = Path(os.environ["RSO_VAR_DIR"]) / "hold"
    while True:
        specs.get()
        say(Partial(text=WHOLE[:7], tokens=2))
        while hold.exists():
            time.sleep(0.05)
        say(Result(digest="", summary={"text": WHOLE, "tokens": 7, "truncated": False, "prompt_truncated": False}))


if __name__ == "__main__":
    main()
