//! Manual pages and completion scripts, written from the command line's definition.

use std::path::Path;

use crate::cli::{self, CompletionsArgs, ManArgs};
use crate::output;
use anyhow::Context as _;

/// Prints the main manual page, or writes one page for each command into a directory.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<()> {
    match &args.dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(cli::definition()).render(&mut page)?;
            output::text(&String::from_utf8_lossy(&page))
        }
        Some(dir) => write_pages(dir),
    }
}

fn write_pages(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("can't make the directory {}", dir.display()))?;
    let command = cli::definition().disable_help_subcommand(true);
    clap_mangen::generate_to(command, dir).with_context(|| format!("can't write manual pages into {}", dir.display()))
}

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::definition(), "darter", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
