"""What jobq costs, each figure beside what the same work costs without it. See README.md."""
