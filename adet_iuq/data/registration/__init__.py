"""The data sets that a config names: their registration, their classes, and the check of their files."""
