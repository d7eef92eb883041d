//! Tars as tests want them: right ones, and whatever else bytes can say.

#![allow(dead_code, unreachable_pub)]

/// A member to be.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub mtime: i64,
    pub major: i64,
    pub minor: i64,
    pub content: Vec<u8>,
    /// The length in the header, instead of the content's.
    pub size: Option<i64>,
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    /// The header's last 167 bytes, in GNU's format.
    pub gnu: Option<Vec<u8>>,
}

pub fn entry(kind: u8, name: &str) -> Entry {
    Entry {
        name: name.into(),
        kind,
        link: Vec::new(),
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_700_000_000,
        major: 0,
        minor: 0,
        content: Vec::new(),
        size: None,
        pax: Vec::new(),
        gnu: None,
    }
}

pub fn file(name: &str, content: impl AsRef<[u8]>) -> Entry {
    Entry { content: content.as_ref().to_vec(), ..entry(b'0', name) }
}

pub fn dir(name: &str) -> Entry {
    entry(b'5', name)
}

pub fn symlink(name: &str, target: &str) -> Entry {
    Entry { link: target.into(), ..entry(b'2', name) }
}

pub fn hardlink(name: &str, target: &str) -> Entry {
    Entry { link: target.into(), ..entry(b'1', name) }
}

pub fn device(kind: u8, name: &str, major: i64, minor: i64) -> Entry {
    Entry { major, minor, ..entry(kind, name) }
}

impl Entry {
    pub fn mode(self, mode: i64) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: i64, gid: i64) -> Self {
        Self { uid, gid, ..self }
    }

    pub fn mtime(self, mtime: i64) -> Self {
        Self { mtime, ..self }
    }

    pub fn size(self, size: i64) -> Self {
        Self { size: Some(size), ..self }
    }

    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.into(), value.as_ref().to_vec()));
        self
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// An old GNU sparse file of this length, with these parts in its header's map.
    pub fn old_sparse(self, size: i64, parts: &[(i64, i64)], goes_on: bool) -> Self {
        let mut gnu = vec![0; 167];
        for (index, (offset, length)) in parts.iter().enumerate() {
            gnu[41 + index * 24..][..12].copy_from_slice(&number::<12>(*offset));
            gnu[53 + index * 24..][..12].copy_from_slice(&number::<12>(*length));
        }
        gnu[137] = u8::from(goes_on);
        gnu[138..150].copy_from_slice(&number::<12>(size));
        Self { kind: b'S', gnu: Some(gnu), ..self }
    }

    fn header(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let name = &self.name[..self.name.len().min(100)];
        let link = &self.link[..self.link.len().min(100)];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(&number::<8>(self.mode));
        block[108..116].copy_from_slice(&number::<8>(self.uid));
        block[116..124].copy_from_slice(&number::<8>(self.gid));
        block[124..136].copy_from_slice(&number::<12>(self.size.unwrap_or(self.content.len() as i64)));
        block[136..148].copy_from_slice(&number::<12>(self.mtime));
        block[156] = self.kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(if self.gnu.is_some() { b"ustar  \0" } else { b"ustar\x0000" });
        block[329..337].copy_from_slice(&number::<8>(self.major));
        block[337..345].copy_from_slice(&number::<8>(self.minor));
        if let Some(gnu) = &self.gnu {
            block[345..512].copy_from_slice(gnu);
        }
        seal(&mut block);
        block
    }
}

/// Puts the right checksum into a header.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A field's number: octal where it fits, else base 256.
pub fn number<const N: usize>(value: i64) -> [u8; N] {
    let mut field = [0; N];
    if value >= 0 && value < 1 << (3 * (N - 1)) {
        field[..N - 1].copy_from_slice(format!("{value:0width$o}", width = N - 1).as_bytes());
    } else {
        let wide = i128::from(value).to_be_bytes();
        field.copy_from_slice(&wide[16 - N..]);
        field[0] |= 0x80;
    }
    field
}

/// A PAX record.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// A tar of these members, with its end.
pub fn tar(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.into_iter().flat_map(|entry| member(&entry)).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// One member's bytes.
pub fn member(entry: &Entry) -> Vec<u8> {
    let mut records: Vec<u8> = Vec::new();
    if entry.name.len() > 100 {
        records.extend(record(b"path", &entry.name));
    }
    if entry.link.len() > 100 {
        records.extend(record(b"linkpath", &entry.link));
    }
    for (key, value) in &entry.pax {
        records.extend(record(key, value));
    }
    let mut bytes = Vec::new();
    if !records.is_empty() {
        let extended = Entry { content: records, ..self::entry(b'x', "PaxHeaders/x") };
        bytes.extend(extended.header());
        bytes.extend(filled(&extended.content));
    }
    bytes.extend(entry.header());
    bytes.extend(filled(&entry.content));
    bytes
}

/// Bytes, and zeros up to a block's end.
pub fn filled(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}
