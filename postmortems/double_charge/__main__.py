"""`python -m postmortems.double_charge`."""

from __future__ import annotations

from pathlib import Path

from postmortems.double_charge.plots import draw
from postmortems.double_charge.run import SMALL, Settings, play, unmet
from postmortems.report import command

main = command(Path(__file__).parent, play, Settings(), SMALL, draw, unmet)

if __name__ == "__main__":
    main()
