"""The parts of every training run, whatever it trains."""
