"""MOSS-Speech (arXiv 2510.00499), reproduced at a scale that one person can run."""
