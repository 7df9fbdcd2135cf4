"""The verbs of `freeflow`, one module each."""
