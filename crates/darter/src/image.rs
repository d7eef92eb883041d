//! `darter image`: image layers on this host.
//!
//! | file | what lives there |
//! |---|---|
//! | `image/expand.rs` | turns a layer into a mountable file, without a daemon |
//! | `image/profile.rs` | the parts that are read first, as the daemon knows them |

mod expand;
mod profile;

use crate::cli::{ImageArgs, ImageCommand};

pub(crate) async fn run(args: &ImageArgs) -> anyhow::Result<()> {
    match &args.command {
        ImageCommand::Expand(args) => {
            let args = args.clone();
            // Reading, decompressing and writing must not block the runtime's threads.
            tokio::task::spawn_blocking(move || expand::run(&args)).await?
        }
        ImageCommand::Profile(args) => profile::run(args).await,
    }
}
