"""CPU time of the service's threads, by what they are for."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

READERS, LOOP, CONTEXTS, OTHERS = "readers", "event loop", "contexts", "others"
_GROUPS = {"camera:": READERS, "cpu-detector": CONTEXTS, "synthetic-detector": CONTEXTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadClocks:
    """CPU seconds so far. Threads that Python did not start, such as an inference library's, are among the others."""

    process_s: float
    threads_s: Mapping[str, float]

    @classmethod
    def read(cls) -> ThreadClocks:
        """Call it in the event loop's thread."""
        threads_s = dict.fromkeys((READERS, LOOP, CONTEXTS), 0.0)
        for thread in threading.enumerate():
            group = LOOP if thread is threading.current_thread() else _group(thread.name)
            if group is not None and thread.ident is not None:
                threads_s[group] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        return cls(process_s=time.process_time(), threads_s=threads_s)

    def since(self, before: ThreadClocks) -> ThreadClocks:
        """What was spent in between, the others' included. A thread that ended since then is not ours to tell of."""
        process_s = self.process_s - before.process_s
        used = {group: spent - before.threads_s[group] for group, spent in self.threads_s.items()}
        return ThreadClocks(process_s=process_s, threads_s={**used, OTHERS: process_s - sum(used.values())})


def _group(name: str) -> str | None:
    return next((group for prefix, group in _GROUPS.items() if name.startswith(prefix)), None)
