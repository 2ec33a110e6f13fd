"""TLS on both sides and the ways to log in: who may connect how, and what is said where it can't work."""
