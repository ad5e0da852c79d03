"""Running statistics of each feature of a layer."""
