"""`mossrepro bench`: speed beside what a user would pick instead, in one process, turn by turn."""
