"""Many runs: plans, sweeps, tuning, statistics."""
