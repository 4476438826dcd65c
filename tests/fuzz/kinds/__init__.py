"""Kinds of inputs: each module makes cases from seeds (`make`) and calls the library with them (`TARGETS`)."""

NAMES = ("pictures", "sounds", "videos", "models", "datasets", "takes", "settings", "arguments")
