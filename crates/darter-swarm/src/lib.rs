//! The decisions of a swarm, without I/O: picker, tracker, locality, byte budgets.
