"""Records that several rooms read and write: plans blocks, run records, hashes, folder names. Imports no torch."""
