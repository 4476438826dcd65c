"""Takes for many users at once: jobs with progress and stop, limits, cached inputs, drafts. The page uses it."""
