//! Support for tests of layers: tars of every kind, and trees in lines that can be compared.

#[path = "../../../darter-image/tests/support/drawn.rs"]
pub(crate) mod drawn;
#[path = "../../../darter-image/tests/support/tar.rs"]
pub(crate) mod tar;
#[path = "../../../darter-image/tests/support/walk.rs"]
pub(crate) mod walk;
