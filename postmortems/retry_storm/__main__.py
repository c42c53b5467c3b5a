"""`python -m postmortems.retry_storm`."""

from __future__ import annotations

from pathlib import Path

from postmortems.report import command
from postmortems.retry_storm.plots import draw
from postmortems.retry_storm.run import SMALL, Settings, play, unmet

main = command(Path(__file__).parent, play, Settings(), SMALL, draw, unmet)

if __name__ == "__main__":
    main()
