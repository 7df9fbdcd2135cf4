"""What the command line and Python do alike: a function for each, and the object that it
returns.
"""
