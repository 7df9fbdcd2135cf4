"""How good a student is: references, scores, diagnosis."""
