"""One file a service of the contract; each has a class that serving.server finds by name."""
