"""One module for each row, run by that queue's own interpreter; the scoreboard imports none."""
