//! Names as labels. Callers name registries (`?ns=`), and anybody may send wrong content, so their names must not make series without
//! bound: the first [`MAX_NAMES`] have a label of their own, all later ones share `other`.

use std::sync::Arc;

use parking_lot::RwLock;

/// Names with a label of their own.
const MAX_NAMES: usize = 32;
/// The label of a count that names nobody.
const NONE: &str = "";
/// All that came after the table was full.
const OTHER: &str = "other";

/// The names seen so far.
#[derive(Debug, Default)]
pub(super) struct Names(RwLock<Vec<Arc<str>>>);

impl Names {
    /// The label of this name.
    pub(super) fn label(&self, name: Option<&str>) -> Arc<str> {
        let Some(name) = name else { return NONE.into() };
        if let Some(known) = self.0.read().iter().find(|known| ***known == *name) {
            return Arc::clone(known);
        }
        let mut names = self.0.write();
        if let Some(known) = names.iter().find(|known| ***known == *name) {
            return Arc::clone(known);
        }
        if names.len() == MAX_NAMES {
            return OTHER.into();
        }
        names.push(name.into());
        Arc::clone(&names[names.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_callers_make_up_share_a_label() {
        let names = Names::default();
        assert_eq!(&*names.label(Some("docker.io")), "docker.io");
        for number in 0..2 * MAX_NAMES {
            names.label(Some(&format!("registry-{number}.example")));
        }
        assert_eq!(&*names.label(Some("one-more.example")), OTHER);
        assert_eq!(&*names.label(Some("docker.io")), "docker.io");
        assert_eq!(&*names.label(None), NONE);
    }
}
