"""Annotation files: reading them, finding what is sound in them, and preparing them for an evaluation."""
