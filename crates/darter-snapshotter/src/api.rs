//! The messages of `containerd.services.snapshots.v1`, and those of `containerd.services.namespaces.v1` that are needed, with their field numbers and types on the wire. No I/O.
//!
//! They are written by hand rather than generated: ten plain calls do not justify a protocol compiler in the build
//! ([why](../../../docs/notes/snapshotter.md)). Field numbers never change their meaning; fields that a newer containerd adds are skipped.

use std::collections::HashMap;

use prost::Message;

/// The service's name, with which the paths of calls begin.
pub(crate) const SERVICE: &str = "/containerd.services.snapshots.v1.Snapshots/";

/// The request of `Prepare` and of `View`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NewSnapshot {
    #[prost(string, tag = "2")]
    pub(crate) key: String,
    #[prost(string, tag = "3")]
    pub(crate) parent: String,
    #[prost(map = "string, string", tag = "4")]
    pub(crate) labels: HashMap<String, String>,
}

/// A request that names one snapshot: of `Mounts`, `Remove`, `Stat` and `Usage`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OneSnapshot {
    #[prost(string, tag = "2")]
    pub(crate) key: String,
}

/// The answer to `Prepare`, `View` and `Mounts`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mounts {
    #[prost(message, repeated, tag = "1")]
    pub(crate) mounts: Vec<Mount>,
}

/// One mount.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mount {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) source: String,
    #[prost(string, tag = "3")]
    pub(crate) target: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) options: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Commit {
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) key: String,
    #[prost(map = "string, string", tag = "4")]
    pub(crate) labels: HashMap<String, String>,
    /// A parent other than the one on which it was prepared.
    #[prost(string, tag = "5")]
    pub(crate) parent: String,
}

/// `google.protobuf.Empty`; also a request that names only a snapshotter: of `Cleanup`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Nothing {}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

/// `google.protobuf.FieldMask`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct FieldMask {
    #[prost(string, repeated, tag = "1")]
    pub(crate) paths: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    Unknown = 0,
    View = 1,
    Active = 2,
    Committed = 3,
}

/// A snapshot, as containerd sees it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Info {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) parent: String,
    #[prost(enumeration = "Kind", tag = "3")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "4")]
    pub(crate) created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub(crate) updated_at: Option<Timestamp>,
    #[prost(map = "string, string", tag = "6")]
    pub(crate) labels: HashMap<String, String>,
}

/// The answer to `Stat` and `Update`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OneInfo {
    #[prost(message, optional, tag = "1")]
    pub(crate) info: Option<Info>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Update {
    #[prost(message, optional, tag = "2")]
    pub(crate) info: Option<Info>,
    #[prost(message, optional, tag = "3")]
    pub(crate) update_mask: Option<FieldMask>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct List {
    /// Of which of a containerd's snapshotters; a snapshotter itself is asked without it.
    #[prost(string, tag = "1")]
    pub(crate) snapshotter: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) filters: Vec<String>,
}

/// One message of the answer to `List`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Infos {
    #[prost(message, repeated, tag = "1")]
    pub(crate) infos: Vec<Info>,
}

/// `containerd.services.namespaces.v1.ListNamespacesResponse`; its request is [`Nothing`] for all namespaces.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Namespaces {
    #[prost(message, repeated, tag = "1")]
    pub(crate) namespaces: Vec<Namespace>,
}

/// `containerd.services.namespaces.v1.Namespace`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Namespace {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// The answer to `Usage`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Usage {
    #[prost(int64, tag = "1")]
    pub(crate) size: i64,
    #[prost(int64, tag = "2")]
    pub(crate) inodes: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are those that containerd's own library writes.
    #[test]
    fn messages_are_containerds_on_the_wire() {
        let bytes = b"\x0a\x06darter\x12\x01k\x1a\x01p\x22\x06\x0a\x01a\x12\x01b\xfa\x06\x01x";
        let read = NewSnapshot::decode(&bytes[..]).unwrap();
        let labels = HashMap::from([("a".to_owned(), "b".to_owned())]);
        assert_eq!(read, NewSnapshot { key: "k".to_owned(), parent: "p".to_owned(), labels });
        let info = Info {
            name: "n".to_owned(),
            kind: Kind::Committed.into(),
            created_at: Some(Timestamp { seconds: 1, nanos: 2 }),
            ..Info::default()
        };
        assert_eq!(OneInfo { info: Some(info) }.encode_to_vec(), b"\x0a\x0b\x0a\x01n\x18\x03\x22\x04\x08\x01\x10\x02");
        let mount =
            Mount { kind: "bind".to_owned(), options: vec!["ro".to_owned(), "rbind".to_owned()], ..Mount::default() };
        let mounts = Mounts { mounts: vec![mount] };
        assert_eq!(mounts.encode_to_vec(), b"\x0a\x11\x0a\x04bind\x22\x02ro\x22\x05rbind");
    }
}
