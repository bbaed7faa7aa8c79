"""Data: text, series and labelled sequences from files, their batches, and the sets that ship with the package."""
