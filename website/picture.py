"""The picture of a terminal in the README: both demos, run for it.

    uv run python -m website.picture

Two minutes. What is in it is what the demos printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from website.listings import ROOT

PICTURE = ROOT / "docs/assets/demo.svg"
COMMANDS = (("demo", "--naive"), ("demo",))
COLUMNS = 96

COLOURED = {
    "FORCE_COLOR": "1",
    "TTY_INTERACTIVE": "0",  # nothing that moves: what was there in the end
    "COLUMNS": str(COLUMNS),
}
FONT = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""Which rich would have a browser fetch from elsewhere."""


def main() -> None:
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    for command in COMMANDS:
        console.print(Text.assemble(("$ ", "green"), f"uv run jobq {' '.join(command)}"))
        console.print(Text.from_ansi(printed_by(command)), end="\n\n")
    picture = console.export_svg(title="jobq", theme=MONOKAI, unique_id="jobq-demo")
    PICTURE.write_text(FONT.sub("", picture) + "\n")


def printed_by(command: tuple[str, ...]) -> str:
    """What a command of jobq's printed. The naive demo ends with 1, since its books are wrong."""
    print(f"jobq {' '.join(command)}", file=sys.stderr)
    ran = subprocess.run(  # noqa: S603 - this very package
        [sys.executable, "-m", "jobq", *command],
        env={**os.environ, **COLOURED},
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == int("--naive" in command), ran.stdout
    return ran.stdout.strip("\n")


if __name__ == "__main__":
    main()
