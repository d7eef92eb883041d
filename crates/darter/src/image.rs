//! `darter image`: image layers on this host.
//!
//! | file | what lives there |
//! |---|---|
//! | `image/expand.rs` | a layer into a file, without a daemon |
//! | `image/profile.rs` | what is touched first, as the daemon knows it |

mod expand;
mod profile;

use crate::cli::{ImageArgs, ImageCommand};

pub(crate) async fn run(args: &ImageArgs) -> anyhow::Result<()> {
    match &args.command {
        ImageCommand::Expand(args) => {
            let args = args.clone();
            // Reading, decompressing and writing: none of it for the runtime's threads.
            tokio::task::spawn_blocking(move || expand::run(&args)).await?
        }
        ImageCommand::Profile(args) => profile::run(args).await,
    }
}
