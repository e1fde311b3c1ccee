//! `watchfire login`.

use std::io::Write;

use crate::cli::Target;
use crate::client::Client;
use crate::field;
use crate::screen::{OutputError, Screen};

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let link = Client::new(target)?.post("/api/v1/login-links")?;
    let mut screen = Screen::new();
    writeln!(screen, "{}", field::text(&link, "/url")).map_err(OutputError)?;
    screen.flush().map_err(OutputError)?;
    tracing::info!("open it within ten minutes; it works once");
    Ok(())
}
