//! `cargo xtask proto`: generates `crates/wire/src/generated/` from `proto/`, with a protobuf compiler in Rust.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The packages, and where what is generated from each lies.
const PACKAGES: [(&str, &str); 2] = [
    ("watchfire.agent.v1", "crates/wire/src/generated/watchfire.agent.v1.rs"),
    ("watchfire.worker.v1", "crates/wire/src/generated/watchfire.worker.v1.rs"),
];

/// Generates the messages; with `check`, only compares and fails when a checked-in file is stale.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace root")?;
    let files = protox::compile(["agent/v1/agent.proto", "worker/v1/worker.proto"], [root.join("proto")])
        .context("compile proto/")?;
    for (package, generated) in PACKAGES {
        let module = prost_build::Module::from_protobuf_package_name(package);
        let mut config = prost_build::Config::new();
        if package != "watchfire.agent.v1" {
            config.extern_path(".watchfire.agent.v1", "crate::v1");
        }
        // The generator must know every file, whichever module is wanted.
        let mut all = Vec::new();
        for file in &files.file {
            all.push((prost_build::Module::from_protobuf_package_name(file.package()), file.clone()));
        }
        let modules = config.generate(all).context("generate Rust from proto/")?;
        let text = modules
            .get(&module)
            .with_context(|| format!("the generator returned no module for {package}"))?;
        let path = root.join(generated);
        if check {
            if fs::read_to_string(&path).unwrap_or_default() != *text {
                bail!("{generated} is not what proto/ says: run `cargo xtask proto` and commit the result");
            }
            continue;
        }
        fs::create_dir_all(path.parent().context("the generated file has a folder")?)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
