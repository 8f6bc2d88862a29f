"""Write it down: one record per request, to the log and to the metrics."""
