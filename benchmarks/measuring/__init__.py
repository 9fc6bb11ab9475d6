"""What the benchmarks measure with: turns, contenders, the machine's peak, energy, memory, cold starts and plots."""
