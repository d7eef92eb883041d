//! What every store does (`conformance`, run for each), what the disk adds to it (`disk`), what is left after a kill and
//! on a full disk (`crash`), other limits while it runs (`limits`), entries of its directory (`dir`), asynchronous callers (`handle`), what
//! others put into the directory (`links`), what does not fit (`passing`), what befalls a store in memory (`memory`), and random histories
//! against a model (`histories`).

mod conformance;
mod content;
mod crash;
mod dir;
mod disk;
mod handle;
mod histories;
mod limits;
mod links;
mod memory;
mod passing;
mod unreadable;
