"""Learn: tensors and modules in, a candidate out. No store, no clock, no alerts."""
