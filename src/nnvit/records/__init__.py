"""What several rooms read and write: plans blocks, run records, hashes, names of result folders. Imports no torch."""
