"""Annotation files: reading them, what is sound in them, and what is made of them for an evaluation."""
