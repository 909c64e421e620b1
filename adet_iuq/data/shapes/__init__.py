"""The embedded scenes, rendered when they are first used."""
