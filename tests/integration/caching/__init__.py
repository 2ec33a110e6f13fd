"""The cache lane in front of a real server: every answer equal, none older than it may be, none anybody else's."""
