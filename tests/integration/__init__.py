"""The proxy as its users meet it: ``twistd`` between a real PostgreSQL and real drivers and programs."""
