"""Driving a service with wrk, and what wrk says of it. What is asked, and what figures mean, is the callers'."""

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ASK = """
local paths = {}
for line in io.lines(%s) do paths[#paths + 1] = line end
local at = 0
local asking
setup = function(thread) asking = thread end
degraded = 0
request = function()
  at = at %% #paths + 1
  return wrk.format("GET", paths[at])
end
if %s then
  response = function(status, headers, body)
    if body:find('"degraded":["', 1, true) then degraded = degraded + 1 end
  end
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\nFIGURES {"requests": %%d, "microseconds": %%d, "p50": %%f, "p99": %%f, "failed": %%d, "degraded": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout, asking:get("degraded")))
end
"""
FIGURES = re.compile(r"^FIGURES (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """How a service did."""

    per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int
    """Connections that broke, and answers that are not 2xx or 3xx."""
    degraded: int
    """Answers that a store had no part in; none is found where nobody looks."""


def drive(url: str, paths: Sequence[str], *, connections: int, seconds: float, look: bool = False) -> Load:
    """Ask for these paths one after the other, from the first again after the last, over so many connections.

    With `look` it looks for degraded answers, which takes a part of its time that thousands of answers a second need.
    """
    with tempfile.TemporaryDirectory(prefix="persona-load-") as folder:
        listed, script = Path(folder, "paths"), Path(folder, "ask.lua")
        listed.write_text("\n".join(paths))
        script.write_text(ASK % (json.dumps(str(listed)), json.dumps(look)))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script), url]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = FIGURES.search(printed)
    if found is None:
        raise SystemExit(f"wrk did not say how it went:\n{printed}")
    figures = json.loads(found[1])
    return Load(
        per_second=figures["requests"] / figures["microseconds"] * 1e6,
        p50_ms=figures["p50"] / 1e3,
        p99_ms=figures["p99"] / 1e3,
        requests=figures["requests"],
        failed=figures["failed"],
        degraded=figures["degraded"],
    )
