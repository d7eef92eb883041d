//! Pieces on disk: verified, resumable, evicted by quota.
