"""From raw clips to what training reads."""
