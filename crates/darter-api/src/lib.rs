//! The administration socket, as both of its ends know it: the JSON, which every `--json` prints as well, the way a blob's file goes
//! to a program, and the one client.
//!
//! | file | what lives there |
//! |---|---|
//! | [`answers`] | what is asked and answered, as JSON |
//! | [`mounts`] | how mounts are |
//! | [`headers`] | the names of headers and trailers |
//! | [`layer`] | a layer of an image that is to be mounted |
//! | [`layers`] | the answer to `POST /v1/layers/DIFFID` |
//! | [`changes`] | how long that answer may be gone by |
//! | [`profile`] | which parts of a layer are touched first |
//! | [`top`] | the answer to `GET /v1/top` |
//! | [`span`] | which bytes of some content are wanted |
//! | [`units`] | units in the names of fields |
//! | [`handover`] | how a blob's file goes to a program without a copy |
//! | [`parts`] | how a mount reads parts of a blob, from its file |
//! | [`client`] | [`Client`]: for the command, the laboratory, and whatever else speaks to a daemon of its host |
//!
//! Fields are added, never renamed. The types are pure; of what is here only the client and the handing over open or read
//! sockets. Non-goals: what an agent answers with, and who may ask (`darter-agent`).
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/blobs` | array of [`BlobRow`] |
//! | `DELETE /v1/blobs/{name}` | 204; `name` is a blob id or a digest (or 8 of its first digits and more), an image, or a URL, percent-encoded |
//! | `PUT /v1/blobs/{name}/pin`, `DELETE /v1/blobs/{name}/pin` | 204: kept whatever happens, or not any more |
//! | `GET /v1/explain?name=…` | [`Explained`] |
//! | `POST /v1/get` with [`GetRequest`] | 200 and the bytes in order, headers `darter-blob: ID` and, when known, `darter-length`, `darter-last-modified`, `darter-disposition`; trailer `darter-error` if it breaks. With `Upgrade: darter-file`: 101 and the blob's file, see [`handover`]. With a `range`: just these bytes, never a file, and the header `darter-range: FIRST-LAST/LENGTH` |
//! | `POST /v1/parts` with [`GetRequest`] and `Upgrade: darter-parts` | 101 and parts of the blob as they are asked for, see [`parts`]; with a `layer`, of its expanded form |
//! | `POST /v1/layers/DIFFID` | [`layers::LayerAnswer`]: whether a layer of an image that was pulled can be mounted |
//! | `POST /v1/layers/changes` with `Upgrade: darter-changes` | 101 and word of when such answers may not hold any more, see [`changes`] |
//! | `GET /v1/layers/DIFFID/profile` | [`profile::LayerProfile`]: which parts of a layer are touched first; `null` where nothing is known |
//! | `PUT /v1/layers/DIFFID/profile` with [`profile::PinnedProfile`], `DELETE /v1/layers/DIFFID/profile` | 204: that list counts whatever is learnt, or not any more; 404 where nothing of the layer is here |
//! | `GET /v1/progress?blob=ID` | [`Progress`] |
//! | `GET /v1/top`, `GET /v1/top?name=…` | [`top::Top`]: what moves now, and the named swarm's peers |
//!
//! Anything that fails is answered with [`Problem`]. Times are seconds; sizes are bytes; moments are Unix seconds.

pub mod answers;
pub mod changes;
pub mod client;
mod descriptors;
pub mod handover;
pub mod headers;
pub mod layer;
pub mod layers;
pub mod mounts;
pub mod parts;
pub mod profile;
pub mod span;
pub mod top;
pub mod units;

use std::path::{Path, PathBuf};

pub use answers::{
    BlobRow, Checked, CheckedBy, Explained, ExplainedEvent, ExplainedRange, Explanation, GetRequest, Giver,
    ImageExplanation, ImagePart, ImageRole, PeerStatus, Problem, Progress, Role, SeedStatus, Status, StoreStatus,
    SwarmStatus, Traffic, Wait, Waiting, WrongSource,
};
pub use client::{Client, ClientError};
pub use layer::{BlobRequest, LayerRequest};
pub use mounts::{MountKind, MountState, MountStatus};
pub use span::{Span, SpanError};

/// The path of a data directory's socket.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("darter.sock")
}
