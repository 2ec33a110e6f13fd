"""The tests. Helpers that several of them need are modules here; fixtures are in conftest.py."""
