"""Loading and saving of networks and pipelines."""
