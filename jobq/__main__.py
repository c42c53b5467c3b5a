"""`python -m jobq`."""

from jobq.cli import main

if __name__ == "__main__":
    main(prog_name="jobq")
