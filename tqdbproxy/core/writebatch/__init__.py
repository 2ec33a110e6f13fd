"""Writes that wait for company, and what becomes of them.

types      a waiting write, its possible results, how an attempt to execute a group can end
executor   what a wire must be able to do
policy     when a window closes (pure)
deadlines  many deadlines on one timer
group      the writes of one batch key
rounds     one batch until every member has its result: attempts, the failed one apart, the others again
adaptive   the window of writes without a hint
manager    groups by key, windows, limits
writer     BatchWriter: a buffer of the same kind as a library
errors     what can go wrong, in our words
"""
