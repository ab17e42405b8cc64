"""Energy of an inference: one file a meter, and how a window of a meter's samples becomes millijoules."""
