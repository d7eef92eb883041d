//! Which compression a layer has. Its first bytes decide, as they do for containerd, whatever its media type says; a media type tells it
//! before a byte is there, and names compressions that can't be read.

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A tar as it is.
    None,
    /// RFC 1952, one member or several.
    Gzip,
    /// RFC 8878, one frame or several.
    Zstd,
}

/// A compression, or another wrapping, that is known by name only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the layer is packed with {0}, which is not read here: pull it the ordinary way")]
pub struct Unreadable(pub &'static str);

/// How many bytes are enough to know a compression by.
pub const MAGIC_LENGTH: usize = 6;

impl Compression {
    /// In one word, for JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The compression that begins with these bytes: [`MAGIC_LENGTH`] of them, or all if there are fewer.
    ///
    /// # Errors
    ///
    /// They are those of a format that is not read.
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        match bytes {
            [0x1f, 0x8b, 0x08, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A frame that says nothing may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(Unreadable("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Err(Unreadable("bzip2")),
            _ => Ok(Self::None),
        }
    }

    /// The compression that a media type of OCI's or Docker's names; `None` if it names no layer that is a tar.
    ///
    /// # Errors
    ///
    /// It names one that is not read.
    pub fn of_media_type(media_type: &str) -> Result<Option<Self>, Unreadable> {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence.ends_with("+encrypted") {
            return Err(Unreadable("encryption"));
        }
        let Some(rest) =
            ["application/vnd.oci.image.layer.v1.", "application/vnd.oci.image.layer.nondistributable.v1."]
                .into_iter()
                .chain([
                    "application/vnd.docker.image.rootfs.diff.",
                    "application/vnd.docker.image.rootfs.foreign.diff.",
                ])
                .find_map(|prefix| essence.strip_prefix(prefix))
        else {
            return Ok(None);
        };
        match rest {
            "tar" => Ok(Some(Self::None)),
            "tar+gzip" | "tar.gzip" => Ok(Some(Self::Gzip)),
            "tar+zstd" | "tar.zstd" => Ok(Some(Self::Zstd)),
            "tar+xz" => Err(Unreadable("xz")),
            "tar+bzip2" => Err(Unreadable("bzip2")),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide() {
        assert_eq!(Compression::of_bytes(&[0x1f, 0x8b, 8, 0, 0, 0]), Ok(Compression::Gzip));
        assert_eq!(Compression::of_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0]), Ok(Compression::Zstd));
        assert_eq!(Compression::of_bytes(&[0x5e, 0x2a, 0x4d, 0x18, 0, 0]), Ok(Compression::Zstd));
        for tar in [b"./\0\0\0\0".as_slice(), b"", b"\0\0\0\0\0\0", &[0x1f, 0x8b]] {
            assert_eq!(Compression::of_bytes(tar), Ok(Compression::None));
        }
        assert_eq!(Compression::of_bytes(b"\xfd7zXZ\0"), Err(Unreadable("xz")));
        assert_eq!(Compression::of_bytes(b"BZh91AY"), Err(Unreadable("bzip2")));
        assert_eq!(Compression::of_bytes(b"BZh9 is a name"), Ok(Compression::None));
    }

    #[test]
    fn media_types_name_it() {
        let of = Compression::of_media_type;
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar"), Ok(Some(Compression::None)));
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+gzip"), Ok(Some(Compression::Gzip)));
        assert_eq!(of("Application/vnd.oci.image.layer.v1.tar+zstd; charset=x"), Ok(Some(Compression::Zstd)));
        assert_eq!(of("application/vnd.docker.image.rootfs.diff.tar.gzip"), Ok(Some(Compression::Gzip)));
        assert_eq!(of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), Ok(Some(Compression::Gzip)));
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), Err(Unreadable("encryption")));
        assert_eq!(of("application/vnd.oci.image.config.v1+json"), Ok(None));
    }
}
