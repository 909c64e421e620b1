"""What a user starts from a terminal: `adet-iuq COMMAND`, and the same mains behind tools/*.py."""
