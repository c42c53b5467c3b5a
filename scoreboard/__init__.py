"""The failure modes as black-box scenarios, for jobq and for other queues. See docs/scoreboard.md."""
