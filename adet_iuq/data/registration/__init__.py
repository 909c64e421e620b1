"""Which data sets a config names: registering them, their classes, and whether they are sound."""
