"""Other people's test suites, run directly and through the proxy, and the two results compared.

``places``      where things lie, and as whom they run
``sources``     a suite's sources, from Debian's archive and the Python package index
``server``      a private PostgreSQL server
``between``     what stands between a suite and its server: nothing, PgBouncer or the proxy
``results``     outcomes by test name, kept as JSON, compared
``regress``     PostgreSQL's own suites: regression, isolation, libpq pipeline
``drivers``     the suites of asyncpg and psycopg2
``asyncpg_plugin``  loaded into asyncpg's tests, whose clusters are started by the tests themselves

Nothing here is collected by the ordinary test run, and nothing is written into the checkout.
"""
