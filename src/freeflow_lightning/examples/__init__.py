"""The built-in examples, a room each: data, features, and the script that made them."""
