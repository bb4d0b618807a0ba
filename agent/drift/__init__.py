"""From observations to an alarm: ticks, references, monitors, episodes."""
