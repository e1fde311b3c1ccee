//! Events judged a second: the benches of the rule and detect crates, their words taken over as they are.

use anyhow::Result;

use crate::command::{cargo, output};

const BENCHES: [&str; 2] = ["watchfire-rule", "watchfire-detect"];

/// The section of the page.
pub(super) fn measure() -> Result<String> {
    let mut text =
        "## Rules\n\n`cargo bench --package watchfire-rule --package watchfire-detect` on one core:\n\n```\n"
            .to_owned();
    for package in BENCHES {
        let said = output(&mut cargo(&["bench", "--locked", "--package", package, "--benches"]))?;
        let own = said.lines().filter(|line| !is_of_libtest(line));
        text.extend(own.flat_map(|line| [line, "\n"]));
    }
    text.push_str("```\n");
    Ok(text)
}

/// Lines of the empty unit test runs that cargo adds.
fn is_of_libtest(line: &str) -> bool {
    line.trim().is_empty()
        || line.starts_with("running ")
        || line.starts_with("test result:")
        || (line.starts_with("test ") && line.ends_with(" ... ignored"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_bench_says_is_kept() {
        assert!(
            is_of_libtest("test a::b ... ignored") && is_of_libtest("running 3 tests") && is_of_libtest("")
        );
        assert!(!is_of_libtest("project pack: 100000 events/s"));
    }
}
