//! Events judged a second: the bench of the detect crate, its words taken over as they are.

use std::env;

use anyhow::{Result, bail};

use crate::command::{cargo, output};

/// Names a directory of Sigma rules to be measured beside the project's own.
const OTHER_RULES: &str = "WATCHFIRE_SIGMA_DIR";

/// The section of the page.
pub(super) fn measure() -> Result<String> {
    let bench = ["bench", "--locked", "--package", "watchfire-detect", "--bench", "judge"];
    let said = output(&mut cargo(&bench))?;
    let table: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    if table.is_empty() {
        bail!("the bench printed nothing");
    }
    let others = match env::var_os(OTHER_RULES) {
        Some(_) => format!("`{OTHER_RULES}` named the Linux rules of the public Sigma repository."),
        None => format!("`{OTHER_RULES}` was not set: the project's own rules only."),
    };
    Ok(format!(
        "## Rules\n\n`cargo {}`: events judged a second by one thread, by its CPU time. {others}\n\n```\n{}\n```\n",
        bench.join(" "),
        table.join("\n")
    ))
}
