//! The bytes of an expanded layer.

use super::metadata_start;
use crate::building::expand;
use crate::building::tar::{device, dir, file, hardlink, symlink, tar};

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The offset of the inode of `name` in the root directory, whose entries stand behind its inode.
fn inode(image: &[u8], name: &str) -> usize {
    let metadata = le32(image, 1024 + 40) as usize * 512;
    let root = metadata + 64;
    let entries = &image[root + 64..][..le64(image, root + 8) as usize];
    let count = usize::from(le16(entries, 8)) / 12;
    let name_at =
        |index: usize| if index == count { entries.len() } else { usize::from(le16(entries, index * 12 + 8)) };
    let found = (0..count).find(|index| &entries[name_at(*index)..name_at(index + 1)] == name.as_bytes());
    metadata + le64(entries, found.unwrap() * 12) as usize * 32
}

/// Every byte that another release would have to write as well: layers are compared between hosts.
#[test]
fn an_expanded_layer_is_these_bytes() {
    let image = expand(&tar([
        file("file", "hello"),
        symlink("link", "file").owner(1, 70_000),
        device(b'3', "null", 1, 3).mode(0o666),
        file(".wh.gone", ""),
        file("labelled", "").xattr("user.a", "b").xattr("security.selinux", "label"),
        hardlink("other", "labelled").xattr("security.selinux", "label").xattr("user.a", "b"),
        dir("sub").xattr("security.selinux", "label").mtime(-1),
        file("sub/.wh..wh..opq", ""),
    ]))
    .unwrap();
    assert_eq!(darter_core::Digest::sha256(&image).to_string(), GOLDEN);

    let superblock = &image[1024..1152];
    assert_eq!(&superblock[..4], [0xe2, 0xe1, 0xf5, 0xe0]);
    let fields = [(8, 3), (16, 7), (36, image.len() as u32 / 512), (80, 0), (84, 0)];
    assert_eq!(fields.map(|(at, _)| (at, le32(superblock, at))), fields);
    assert_eq!((superblock[12], le16(superblock, 14)), (9, 2));
    let metadata = le32(superblock, 40) as usize * 512;
    assert_eq!(&image[metadata..metadata + 16], b"darter-erofs\x02\0\0\0");

    let hello = inode(&image, "file");
    assert_eq!((le16(&image, hello), le16(&image, hello + 4), le64(&image, hello + 8)), (1, 0o100_644, 5));
    let content = le32(&image, hello + 16) as usize * 512;
    assert_eq!((content, &image[content..content + 5]), (4096 + 512, b"hello".as_slice()), "inside the tar");
    let link = inode(&image, "link");
    assert_eq!((le16(&image, link) >> 1, &image[link + 64..link + 68]), (2, b"file".as_slice()));
    assert_eq!((le32(&image, link + 24), le32(&image, link + 28)), (1, 70_000));
    assert_eq!(le32(&image, inode(&image, "null") + 16), 0x103);
    assert_eq!((le16(&image, inode(&image, "gone") + 4), le32(&image, inode(&image, "gone") + 16)), (0o020_000, 0));
    let labelled = inode(&image, "labelled");
    assert_eq!((labelled, le32(&image, labelled + 44)), (inode(&image, "other"), 2));
    // One shared, one of its own.
    assert_eq!((le16(&image, labelled + 2), image[labelled + 64 + 4]), (4, 1));
    let shared = le32(superblock, 44) as usize * 512 + le32(&image, labelled + 64 + 12) as usize * 4;
    assert_eq!(&image[shared..shared + 16], b"\x07\x06\x05\0selinuxlabel");
}

const GOLDEN: &str = "sha256:43d88e41cc267b03cee3bc65f2c9ad08a6f75c96b961c30f10453e407cda8c91";

#[test]
fn the_same_tar_gives_the_same_bytes_in_whatever_chunks_it_comes() {
    let tar =
        tar((0..300).map(|at| file(&format!("d{}/{at}", at % 7), "x".repeat(at)).xattr("user.n", at.to_string())));
    let whole = crate::building::expand_by(&tar, tar.len()).unwrap();
    for chunk in [1, 511, 512, 513, 10_000] {
        assert!(crate::building::expand_by(&tar, chunk).unwrap() == whole, "{chunk}");
    }
}

#[test]
fn a_tar_that_ends_within_a_block_is_filled_up() {
    let tar = [tar([file("f", "hello")]), vec![0; 100]].concat();
    let image = expand(&tar).unwrap();
    assert_eq!(metadata_start(tar.len() as u64) % 512, 0);
    assert_eq!(image.len() % 4096, 0);
}
