"""Takes for many users: jobs, limits, caches, drafts."""
