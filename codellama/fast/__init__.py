"""Optional speed: each file one speed-up, all put in place by `acceleration.load`."""
