//! Where blobs come from: HTTP servers, OCI registries, local files.
