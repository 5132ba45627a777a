//! `lockstep token path`: where the HTTP api's token is. It is made at the first start of `dev` or `serve`.

use super::{Common, Exit, Failure, out};
use crate::api::Token;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Print the path of the token's file
    Path,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Path => {
            let path = Token::path(&common.data);
            if !path.exists() {
                return Err(Failure::new(Exit::Failed, format!("no token at {} yet", path.display()))
                    .help("it is made at the first start of `lockstep dev` or `lockstep serve`")
                    .help("if that runs with another data folder, name it with --data")
                    .into());
            }
            out::line(std::path::absolute(&path).unwrap_or(path).display().to_string())?;
        }
    }
    Ok(Exit::Done.into())
}
