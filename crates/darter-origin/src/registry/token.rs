//! Tokens: getting them, keeping them until they expire.
