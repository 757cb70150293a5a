"""How machines of one network find each other: mDNS. The only importer of zeroconf."""
