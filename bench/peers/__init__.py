"""jobq beside other queues: each in its own process and virtual environment, in turns."""
