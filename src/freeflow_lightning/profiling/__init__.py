"""What training costs: evaluations counted, steps timed, memory estimated."""
