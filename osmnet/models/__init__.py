"""The networks, one topic a file; nothing is imported here, so that a name costs only its own file."""
