"""Trained students: opened from whatever holds one, used, searched with, exported."""
