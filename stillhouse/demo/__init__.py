"""The demo: a real task on text that every installation already carries, and the model it starts from."""
