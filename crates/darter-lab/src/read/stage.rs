//! Stages: the layers of software between a reader and the disk.

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The file system below, nothing else.
    Native,
    /// overlayfs over that, as containerd unpacks an image.
    Overlay,
    /// A layer of which half is here, and the rest comes meanwhile.
    Filling,
    /// That mount once all is here: a container that was started before goes on like this.
    Whole,
    /// A container that was started since: containerd mounts the store's file itself.
    Renewed,
    /// A layer that is whole, as Darter's snapshotter mounts its file.
    Own,
}

impl Stage {
    /// In their turns.
    pub const ALL: [Self; 6] = [Self::Native, Self::Overlay, Self::Filling, Self::Whole, Self::Renewed, Self::Own];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Overlay => "overlayfs",
            Self::Filling => "lazy, filling",
            Self::Whole => "lazy, whole, same mount",
            Self::Renewed => "lazy, whole, new mount",
            Self::Own => "lazy, whole, darter's mount",
        }
    }
}
