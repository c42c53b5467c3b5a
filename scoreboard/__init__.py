"""The failure modes as black-box scenarios, for jobq and others. See docs/scoreboard.md."""
