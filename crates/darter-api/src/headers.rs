//! The names of headers and trailers of `POST /v1/get` and `POST /v1/parts`.

/// The header of a download's answer that names its blob.
pub const BLOB_HEADER: &str = "darter-blob";

/// The header that tells a download's length in bytes, if it is known.
pub const LENGTH_HEADER: &str = "darter-length";

/// The header that tells how a blob is cut: the base-two logarithm of its piece length.
pub const PIECES_HEADER: &str = "darter-pieces";

/// The header that tells when the content was last modified, as its origin wrote it.
pub const MODIFIED_HEADER: &str = "darter-last-modified";

/// The header with the value `none` of a daemon that keeps no profiles: reports of the parts that programs touch first are of no use to it.
pub const TOUCHES_HEADER: &str = "darter-touches";

/// The header that carries the origin's `Content-Disposition`, where it was asked for.
pub const DISPOSITION_HEADER: &str = "darter-disposition";

/// The header that says which bytes an answer has, and how many there are in all: `FIRST-LAST/LENGTH`.
pub const RANGE_HEADER: &str = "darter-range";

/// The header that tells a blob's [`Traffic`](crate::Traffic) when the download was asked for, as JSON.
pub const TRAFFIC_HEADER: &str = "darter-traffic-before";

/// The trailer that tells why a download ended before its end.
pub const ERROR_TRAILER: &str = "darter-error";

/// The trailer that says that the content changed at its origin while it was read, and may be asked for again.
pub const CHANGED_TRAILER: &str = "darter-changed";

/// The trailers that tell whose fault that is and whether asking again helps, as in [`Problem`](crate::Problem).
pub const FAULT_TRAILER: &str = "darter-fault";
/// See [`FAULT_TRAILER`].
pub const RETRY_TRAILER: &str = "darter-retry";
/// After how many seconds, where that is known.
pub const RETRY_AFTER_TRAILER: &str = "darter-retry-after";
