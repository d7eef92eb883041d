//! The words of the OCI distribution specification, and what registries make of them.
//!
//! | file | what lives there |
//! |---|---|
//! | [`route`] | what a path under `/v2/` asks for |
//! | [`name`] | names of registries, repositories and tags, and of images as people write them |
//! | [`manifest`] | what a manifest is, whether it is the one that was asked for, and what it names |
//! | [`artifact`] | the files of an artifact, such as a model |
//! | [`image`] | the layers of an image, with their diff ids |
//! | [`claims`] | which diff ids an image may name, however its documents are written |
//! | [`media_type`] | what documents and layers are called |
//! | [`platform`] | for which system and processor an image is, and which manifest of an index that is |
//! | [`challenge`] | what a server asks for in `WWW-Authenticate` |
//! | [`token`] | what a token service answers |
//! | [`error`] | errors as registries write them |
//!
//! Pure: text and bytes in, words out. Sending and serving them is done elsewhere: `darter-origin` asks registries, the mirror answers
//! engines. Digests are `darter-core`'s, since content of any origin has them.
//!
//! Invariant: no text makes anything here panic. Text that can't be read is refused, or skipped where registries in use write so.

pub mod artifact;
pub mod challenge;
pub mod claims;
pub mod error;
pub mod image;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod platform;
pub mod route;
pub mod token;
