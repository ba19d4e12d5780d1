"""A run's numbers as a terminal table, Markdown and one page with pictures and sound."""
