"""Books of what many clients were told, compared with what the tables hold.

ledger     writes, what became of them as their clients saw it
schema     the tables, and where each kind of write leaves its mark
kinds      writes of every kind, each with what must be answered to it
phrasing   how a write is said on the wire: simple, unnamed, prepared
wire       a client's connection, on asyncio
judge      one reply against one write
audit      the whole ledger against the tables
program    which kinds are written at one time
clients    who writes, cancels and vanishes
faults     what happens to servers and proxies meanwhile
relay      the network between proxy and server, which may be cut
site       the server and the proxy that all this is done to
run        one run from the first table to the report

By hand: ``python -m tests.books --writes 50000 --faults terminate,kill,immediate,proxy``.
"""
