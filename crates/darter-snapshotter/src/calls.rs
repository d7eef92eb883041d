//! Carries out each call of the service: gives the call's message to the [`Snapshotter`], and makes a message of the result.
//!
//! Fields that a message lacks have their empty values, as protobuf has it: no parent is an empty name.

use std::collections::HashMap;
use std::time::Duration;

use crate::api;
use crate::layout::Mount;
use crate::service::{Failure, Snapshotter};
use crate::tree::{Labels, Refusal, Snapshot, SnapshotKind};

pub(crate) async fn prepare(at: Snapshotter, asked: api::NewSnapshot) -> Result<api::Mounts, Failure> {
    at.prepare(asked.key, asked.parent, as_labels(asked.labels)).await.map(as_mounts)
}

pub(crate) async fn view(at: Snapshotter, asked: api::NewSnapshot) -> Result<api::Mounts, Failure> {
    at.view(asked.key, asked.parent, as_labels(asked.labels)).await.map(as_mounts)
}

pub(crate) async fn mounts(at: Snapshotter, asked: api::OneSnapshot) -> Result<api::Mounts, Failure> {
    at.mounts(asked.key).await.map(as_mounts)
}

pub(crate) async fn commit(at: Snapshotter, asked: api::Commit) -> Result<api::Nothing, Failure> {
    if !asked.parent.is_empty() {
        let text = "this snapshotter can't change a snapshot's parent when it is committed";
        return Err(Refusal::Argument(text.to_owned()).into());
    }
    at.commit(asked.key, asked.name, as_labels(asked.labels)).await.map(|()| api::Nothing {})
}

pub(crate) async fn remove(at: Snapshotter, asked: api::OneSnapshot) -> Result<api::Nothing, Failure> {
    at.remove(asked.key).await.map(|()| api::Nothing {})
}

pub(crate) async fn stat(at: Snapshotter, asked: api::OneSnapshot) -> Result<api::OneInfo, Failure> {
    let found = at.stat(&asked.key)?;
    Ok(api::OneInfo { info: Some(as_info(asked.key, found)) })
}

pub(crate) async fn update(at: Snapshotter, asked: api::Update) -> Result<api::OneInfo, Failure> {
    let (wanted, paths) = (asked.info.unwrap_or_default(), asked.update_mask.unwrap_or_default().paths);
    let updated = at.update(wanted.name.clone(), as_labels(wanted.labels), paths).await?;
    Ok(api::OneInfo { info: Some(as_info(wanted.name, updated)) })
}

/// All snapshots that pass one of the call's filters.
pub(crate) fn list(at: &Snapshotter, asked: &api::List) -> Result<Vec<api::Info>, Failure> {
    let found = at.list(&asked.filters)?;
    Ok(found.into_iter().map(|(name, snapshot)| as_info(name, snapshot)).collect())
}

pub(crate) async fn usage(at: Snapshotter, asked: api::OneSnapshot) -> Result<api::Usage, Failure> {
    let usage = at.usage(asked.key).await?;
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Ok(api::Usage { size: number(usage.bytes), inodes: number(usage.inodes) })
}

pub(crate) async fn clean_up(at: Snapshotter, _: api::Nothing) -> Result<api::Nothing, Failure> {
    at.clean_up().await.map(|()| api::Nothing {})
}

fn as_labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

fn as_mounts(mounts: Vec<Mount>) -> api::Mounts {
    let mount = |Mount { kind, source, options }| api::Mount {
        kind: String::from(kind),
        source,
        target: String::new(),
        options,
    };
    api::Mounts { mounts: mounts.into_iter().map(mount).collect() }
}

fn as_info(name: String, snapshot: Snapshot) -> api::Info {
    let kind = match snapshot.kind {
        SnapshotKind::Active => api::Kind::Active,
        SnapshotKind::View => api::Kind::View,
        SnapshotKind::Committed => api::Kind::Committed,
    };
    let at = |date: Duration| {
        let nanos = i32::try_from(date.subsec_nanos()).unwrap_or_default();
        Some(api::Timestamp { seconds: i64::try_from(date.as_secs()).unwrap_or(i64::MAX), nanos })
    };
    api::Info {
        name,
        parent: snapshot.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: at(snapshot.created),
        updated_at: at(snapshot.updated),
        labels: snapshot.labels.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_nanoseconds() {
        let snapshot = Snapshot {
            number: 1,
            kind: SnapshotKind::View,
            parent: None,
            created: Duration::new(5, 6),
            updated: Duration::new(7, 8),
            labels: Labels::new(),
            usage: crate::tree::Usage::default(),
            lazy: None,
        };
        let info = as_info("n".to_owned(), snapshot);
        assert_eq!(info.created_at, Some(api::Timestamp { seconds: 5, nanos: 6 }));
        assert_eq!((info.kind, info.parent.as_str()), (1, ""));
    }
}
