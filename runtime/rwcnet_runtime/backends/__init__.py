"""Programs that run a bundle's graphs, one file each, behind `interface.Backend`."""
