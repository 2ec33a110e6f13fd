"""tqdbproxy: a PostgreSQL proxy that executes the writes of many clients together where a comment asks for it.

cli, tap     how people start it
service      puts the parts together
config       the INI file -> settings
web, desk    what operators look at
transport    sockets: uvloop's transports under Twisted's protocols
postgres/    the PostgreSQL wire, both ends
core/        what to do with a statement, whatever the wire
errors       what can go wrong, in our words
"""
