"""The benchmarks: the server directly, PgBouncer and the proxy side by side, on one machine, in one run.

run          the command line: which figures, how often, where to
goals        the records: a figure to reach, a benchmark, what a round of it gave
peers        starts the server, PgBouncer and the proxy
cpu          processor time and memory of a process
loads        the tables and pgbench scripts
batching     P0 to P4, C, E: hinted writes
bare         P0: a loop that knows one statement by heart
cached       P5: reads from memory
forwarding   P6 to P9: the forward lane
violations   a load that pgbench can't make: writes of which some fail
report       the table on the terminal and the JSON file
plot         the same as a picture
"""
