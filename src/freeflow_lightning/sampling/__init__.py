"""Samples as a function of (seed, index): drawn, written, drawn on by several processes."""
