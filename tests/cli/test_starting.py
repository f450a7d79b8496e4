"""What the command line must not load before a command needs it: each costs whoever asks for help half a second or more."""

import subprocess
import sys

HEAVY = ("dagster", "fastapi", "implicit", "matplotlib", "scipy", "sentence_transformers", "sklearn", "torch", "transformers")


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, persona_cli.main; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
