"""One module for each queue, run by that queue's own interpreter; the suite imports none."""
