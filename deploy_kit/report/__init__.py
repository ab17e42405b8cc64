"""Reports: results as one HTML page."""
