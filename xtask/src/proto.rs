//! `cargo xtask proto`: generates `crates/wire/src/generated/` from `proto/`, with a protobuf compiler in Rust.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

const GENERATED: &str = "crates/wire/src/generated/watchfire.agent.v1.rs";

/// Generates the messages; with `check`, only compares and fails when the checked-in file is stale.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace root")?;
    let files = protox::compile(["agent/v1/agent.proto"], [root.join("proto")]).context("compile proto/")?;
    let request = prost_build::Module::from_protobuf_package_name("watchfire.agent.v1");
    let modules = prost_build::Config::new()
        .generate(files.file.into_iter().map(|file| (request.clone(), file)).collect())
        .context("generate Rust from proto/")?;
    let text = modules.get(&request).context("the generator returned no module for watchfire.agent.v1")?;
    let path = root.join(GENERATED);
    if check {
        if fs::read_to_string(&path).unwrap_or_default() != *text {
            bail!("{GENERATED} is not what proto/ says: run `cargo xtask proto` and commit the result");
        }
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("the generated file has a folder")?)?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
