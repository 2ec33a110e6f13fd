"""Batches on a real PostgreSQL: merged inserts, windows, identity, and what drivers send before they write."""
