"""One file per broker: the only place that imports a driver."""
