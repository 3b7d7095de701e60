"""The pages of the environments say what the code says."""

import subprocess
import sys
from pathlib import Path


def test_the_pages_of_the_environments_are_up_to_date():
    script = Path(__file__).parents[1] / "scripts" / "env_docs.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
