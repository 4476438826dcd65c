"""Loading and saving networks and pipelines; the Hub."""
