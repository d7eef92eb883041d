//! `darter image`: image layers on this host, without a daemon.

mod expand;

use crate::cli::{ImageArgs, ImageCommand};

pub(crate) async fn run(args: &ImageArgs) -> anyhow::Result<()> {
    match &args.command {
        ImageCommand::Expand(args) => {
            let args = args.clone();
            // Reading, decompressing and writing: none of it for the runtime's threads.
            tokio::task::spawn_blocking(move || expand::run(&args)).await?
        }
    }
}
