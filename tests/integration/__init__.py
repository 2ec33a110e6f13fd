"""The proxy as its users meet it: ``twistd`` in front of a real PostgreSQL, real drivers and programs in front of that."""
