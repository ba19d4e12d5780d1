"""`mossrepro bench`: speed beside what a user would pick instead, in one process, in turns."""
