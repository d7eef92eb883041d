//! Which files are ours.

use super::*;

const BLOB: BlobId = BlobId([0xab; 32]);

#[test]
fn a_file_is_ours_by_its_blobs_name_in_its_own_directory_and_by_its_extension() {
    let name = |extension| file_name(BLOB, extension);
    for extension in [DATA, SIDECAR, NEW_SIDECAR, NEWER_DATA, NEWER_SIDECAR] {
        assert_eq!(name_of("ab", &name(extension)), Some((BLOB, extension)));
        assert_eq!(name_of("ac", &name(extension)), None, "in another's directory");
    }
    assert_eq!(name_of("ab", &name("newer-data-12")), Some((BLOB, NEWER_DATA)));
    assert_eq!(name_of("ab", &name("newer-piece-2")), Some((BLOB, NEWER_SIDECAR)));
    let foreign = [
        name("txt"),
        name("data2"),
        name("data-2"),
        name("newer-data-"),
        name("newer-data-x"),
        name("data.old"),
        "README".into(),
        "abab.data".into(),
    ];
    let upper = name(DATA).to_uppercase();
    for foreign in foreign.iter().chain([&upper, &upper.replace(".DATA", ".data")]) {
        assert_eq!(name_of("ab", foreign), None, "{foreign}");
    }
}

#[test]
fn bytes_beside_a_file_of_the_future_are_a_newer_versions() {
    let described = |extensions: &[&str]| {
        let mut files: BTreeSet<String> = extensions.iter().map(|extension| file_name(BLOB, extension)).collect();
        // Others' are before and behind it.
        files.extend([0xaa, 0xac].map(|other| file_name(BlobId([other; 32]), "future")));
        is_described_otherwise(&files, BLOB)
    };
    assert!(described(&[DATA, "manifest"]) && described(&["piece4", DATA]));
    assert!(!described(&[DATA]) && !described(&[DATA, SIDECAR]) && !described(&[DATA, NEW_SIDECAR]));
    assert!(!described(&[DATA, SIDECAR, "manifest"]), "this version's sidecar says what they are");
    assert!(!described(&[DATA, NEWER_DATA, NEWER_SIDECAR, "newer-data-2"]), "set aside by this version");
}

#[test]
fn a_file_that_is_missing_or_anothers_is_of_no_use_and_one_that_fails_is_kept() {
    let refusal = |kind: io::ErrorKind| io::Error::from(kind);
    assert!(is_unusable(&refusal(io::ErrorKind::NotFound)) && is_unusable(&refusal(io::ErrorKind::IsADirectory)));
    assert!(is_unusable(&refusal(io::ErrorKind::PermissionDenied)));
    assert!(!is_unusable(&refusal(io::ErrorKind::Other)) && !is_unusable(&io::Error::from_raw_os_error(5)));
}
