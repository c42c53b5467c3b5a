"""`jobq demo`: real charges, real processes, real faults, and the books compared at the end."""
