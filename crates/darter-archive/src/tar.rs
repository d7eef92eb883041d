//! Members of a tar: its headers are read, its data is passed over.

use darter_core::ByteRange;
use darter_image::Reason;
use darter_image::tar::{MemberKind, Parser, Sink, TarMember, Time};

use crate::error::ArchiveError;
use crate::limits::MAX_PATH;
use crate::tree::{Body, Contents, Extent, NodeId, Tree, TreeBuilder};

/// How much is read behind a member that was passed over. Small members follow each other: what is read in a row doubles.
const MIN_STEP: u64 = 64 << 10;

/// How much is read at once, at most.
const MAX_STEP: u64 = 1 << 20;

/// A tar that is being looked through.
#[derive(Debug)]
pub(crate) struct TarScan {
    parser: Parser,
    members: Members,
    length: u64,
    step: u64,
}

#[derive(Debug)]
struct Members {
    builder: TreeBuilder,
    /// Why a member was refused; [`Sink`] has words of its own for tars alone.
    refused: Option<ArchiveError>,
}

impl TarScan {
    pub(crate) fn new(length: u64, mtime: Time) -> Self {
        let members = Members { builder: TreeBuilder::new(mtime), refused: None };
        Self { parser: Parser::new(), members, length, step: MIN_STEP }
    }

    /// The bytes that come next.
    pub(crate) fn wants(&self) -> Option<ByteRange> {
        let at = self.parser.length();
        (at < self.length && !self.parser.is_over()).then(|| ByteRange::new(at, (at + self.step).min(self.length)))
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let pushed = self.parser.push(bytes, &mut self.members);
        if let Some(refused) = self.members.refused.take() {
            return Err(refused);
        }
        pushed?;
        let at = self.parser.length();
        self.parser.skip(self.length - at)?;
        self.step = if self.parser.length() == at { (self.step * 2).min(MAX_STEP) } else { MIN_STEP };
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Tree, ArchiveError> {
        self.parser.finish()?;
        self.members.builder.finish()
    }
}

impl Sink for Members {
    fn member(&mut self, member: TarMember) -> Result<bool, Reason> {
        if let Err(error) = self.add(member) {
            self.refused = Some(error);
            // Nothing more is read.
            return Err(Reason::TooLarge { what: "a member was refused" });
        }
        Ok(false)
    }

    fn data(&mut self, _: &[u8]) {}
}

impl Members {
    fn add(&mut self, member: TarMember) -> Result<(), ArchiveError> {
        let number = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        let body = match member.kind {
            MemberKind::Global => return Ok(()),
            MemberKind::Unknown(kind) => {
                let name = darter_image::reason::shown(&member.name);
                return Err(Reason::Kind { name, kind: char::from(kind) }.into());
            }
            MemberKind::HardLink => return self.builder.link(&member.name, &member.link),
            MemberKind::Directory => Body::Directory { parent: NodeId::ROOT, entries: Box::new([]) },
            MemberKind::Symlink if member.link.is_empty() || member.link.len() > MAX_PATH => {
                let name = darter_image::reason::shown(&member.name);
                return Err(ArchiveError::Name { name, what: "a symbolic link's target is 1 to 4095 bytes" });
            }
            MemberKind::Symlink => Body::Symlink(member.link.into()),
            MemberKind::Fifo => Body::Fifo,
            MemberKind::Char | MemberKind::Block => {
                let number = (number(member.major), number(member.minor));
                Body::Device { block: member.kind == MemberKind::Block, number }
            }
            MemberKind::Regular => {
                let contents = match member.segments {
                    None => Contents::Stored(member.data),
                    Some(segments) => {
                        let mut at = member.data;
                        let extent = |segment: darter_image::tar::Segment| {
                            let extent = Extent { offset: segment.offset, at, length: segment.length };
                            at += segment.length;
                            extent
                        };
                        let filled = segments.into_iter().filter(|segment| segment.length > 0);
                        Contents::Sparse(filled.map(extent).collect())
                    }
                };
                Body::File { size: member.size, contents }
            }
        };
        self.builder.add(&member.name, member.mode & 0o777, member.mtime, body).map(drop)
    }
}
