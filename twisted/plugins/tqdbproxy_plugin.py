"""Makes ``twistd tqdbproxy`` known. Imports nothing of ours: twistd reads every plugin at every start."""

from twisted.application.service import ServiceMaker

tqdbproxy = ServiceMaker("tqdbproxy", "tqdbproxy.tap", "A PostgreSQL proxy that batches writes.", "tqdbproxy")
