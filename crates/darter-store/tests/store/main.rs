//! Tests of the store: for every store (`conformance`), of what the disk adds to it (`disk`), of what is left after a kill and on a full
//! disk (`crash`), of other limits while it runs (`limits`), of entries of its directory (`dir`), of asynchronous callers (`handle`), of
//! what others put into the directory (`links`), of blobs that do not fit (`passing`), of accidents of a store in memory (`memory`), and
//! random histories against a model (`histories`).

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
