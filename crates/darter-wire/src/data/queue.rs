//! Which request of a connection comes next: decisions without I/O.
