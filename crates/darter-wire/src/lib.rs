//! The peer protocol: frames, control messages, zero-copy piece transfer.
