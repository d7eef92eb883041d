//! The agent's files that a mount reads: the one that was named last, and the one before it until the last one is complete. No I/O.
//!
//! A daemon with an emptier store names a file with holes. Pieces of the earlier file are read from there as long as they are needed.

use std::fs::File;
use std::sync::Arc;

#[derive(Debug)]
struct NamedFile {
    file: Arc<File>,
    is_whole: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Files {
    now: Option<NamedFile>,
    before: Option<NamedFile>,
}

impl Files {
    /// The file that was named last.
    pub fn now(&self) -> Option<Arc<File>> {
        self.now.as_ref().map(|now| Arc::clone(&now.file))
    }

    /// All files, in the order in which to look for bytes.
    pub fn all(&self) -> Vec<Arc<File>> {
        self.now.iter().chain(&self.before).map(|named| Arc::clone(&named.file)).collect()
    }

    /// The agent names this file; false if it is the same as last time.
    pub fn named(&mut self, file: &Arc<File>) -> bool {
        let is = |named: &Option<NamedFile>| named.as_ref().is_some_and(|named| Arc::ptr_eq(&named.file, file));
        if is(&self.now) {
            return false;
        }
        if is(&self.before) {
            std::mem::swap(&mut self.now, &mut self.before);
            return true;
        }
        let last = self.now.replace(NamedFile { file: Arc::clone(file), is_whole: false });
        let has_more = |last: &NamedFile| last.is_whole || !self.before.as_ref().is_some_and(|before| before.is_whole);
        if let Some(last) = last.filter(has_more) {
            self.before = Some(last);
        }
        true
    }

    /// All bytes are in this file. If it is the one that was named last, no other is needed.
    pub fn is_whole(&mut self, file: &Arc<File>) {
        if let Some(now) = self.now.as_mut().filter(|now| Arc::ptr_eq(&now.file, file)) {
            now.is_whole = true;
            self.before = None;
        }
    }

    /// True if all bytes are in the file that was named last.
    pub fn last_is_whole(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.is_whole)
    }

    /// True if all bytes are in one of them.
    pub fn one_is_whole(&self) -> bool {
        self.now.iter().chain(&self.before).any(|named| named.is_whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_kept_until_another_one_is_whole() {
        let [first, second, third] = [(); 3].map(|()| Arc::new(tempfile::tempfile().unwrap()));
        let mut files = Files::default();
        assert!(files.now().is_none() && !files.one_is_whole());
        assert!(files.named(&first) && !files.named(&first));
        files.is_whole(&second);
        assert!(!files.one_is_whole(), "it is another one");
        files.is_whole(&first);
        assert!(files.last_is_whole());
        for emptier in [&second, &third] {
            assert!(files.named(emptier));
            assert!(files.one_is_whole() && !files.last_is_whole());
            let all = files.all();
            assert!(all.len() == 2 && Arc::ptr_eq(&all[0], emptier) && Arc::ptr_eq(&all[1], &first));
        }
        files.is_whole(&third);
        assert!(files.all().len() == 1 && Arc::ptr_eq(&files.now().unwrap(), &third));
        assert!(files.named(&second) && files.named(&third), "to and fro");
        assert!(files.last_is_whole() && files.all().len() == 2);
    }
}
