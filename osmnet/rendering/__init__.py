"""From pose and expression to frames."""
