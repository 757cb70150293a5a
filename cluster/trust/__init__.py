"""Who belongs to a cluster: its authority, certificates and join tokens. No network, no waiting;
the time comes in as an argument. The only importer of cryptography."""
