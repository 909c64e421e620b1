"""The commands that a user starts from a terminal: `adet-iuq COMMAND`, or tools/*.py, which call the same functions."""
