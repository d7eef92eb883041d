//! What every store does (`conformance`, run for each), what the disk adds to it (`disk`), what is left after a kill and
//! on a full disk (`crash`), what others put into the directory (`links`), what does not fit (`passing`), and random histories against a model (`histories`).

mod conformance;
mod content;
mod crash;
mod disk;
mod histories;
mod links;
mod passing;
mod unreadable;
