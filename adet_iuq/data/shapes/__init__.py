"""The rendered scenes, made when they are first used."""
