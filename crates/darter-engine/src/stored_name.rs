//! The name of a stored blob: the source for which it was created.

use darter_core::Source;
use darter_store::StoredBlob;

/// True if a stored blob was created for this source of a registry. The name does not contain a base path, of which one host may have several.
pub(crate) fn is_named_for(stored: &dyn StoredBlob, source: &Source) -> bool {
    source.registry().is_some_and(|registry| registry.path() == "/") && stored.info().name == source.to_string()
}
