//! What a registry asks for in `WWW-Authenticate`.
