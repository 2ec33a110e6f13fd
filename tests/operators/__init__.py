"""What operators look at, shown with the programs that they use: browsers, Prometheus, psql."""
