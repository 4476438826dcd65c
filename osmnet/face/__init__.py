"""Face geometry; conventions in docs/conventions.md."""
