//! The crates of this build and who needs whom, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{cargo, output};

/// Every package of the locked build, those of other platforms left out.
pub(crate) struct Packages {
    pub(crate) all: Vec<Package>,
}

/// One package.
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// SPDX expression; `None` when the package states none.
    pub(crate) license: Option<String>,
    /// Where it comes from; `None` for a package of this workspace.
    pub(crate) source: Option<String>,
    /// Folder of its `Cargo.toml`.
    pub(crate) folder: String,
    /// Ids of what its library and programs link; tests and build scripts do not count.
    pub(crate) links: Vec<String>,
    /// Ids of all that its build needs: `links`, and what its tests and build script use.
    pub(crate) needs: Vec<String>,
    /// Names of what it links directly whatever its features.
    pub(crate) always: Vec<String>,
}

impl Packages {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", &host];
        let text = output(&mut cargo(&args))?;
        Self::parse(&serde_json::from_str(&text).context("read cargo metadata")?)
    }

    fn parse(metadata: &Value) -> Result<Self> {
        let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata has resolved nodes")?;
        let by_id: BTreeMap<&str, &Value> =
            nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
        let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
        let all = packages.iter().filter_map(|package| {
            let id = package["id"].as_str()?;
            Some(Package {
                links: needed_by(by_id.get(id)?, true),
                needs: needed_by(by_id.get(id)?, false),
                always: not_optional(package),
                id: id.to_owned(),
                name: text(&package["name"])?,
                version: text(&package["version"])?,
                license: text(&package["license"]),
                source: text(&package["source"]),
                folder: text(&package["manifest_path"])?.trim_end_matches("/Cargo.toml").to_owned(),
            })
        });
        Ok(Packages { all: all.collect() })
    }

    /// The packages of this workspace.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Package> {
        self.all.iter().filter(|package| package.source.is_none())
    }

    /// Names of everything that this package links, directly or not.
    pub(crate) fn closure(&self, package: &Package) -> BTreeSet<&str> {
        let by_id: BTreeMap<&str, &Package> =
            self.all.iter().map(|package| (package.id.as_str(), package)).collect();
        let mut names = BTreeSet::new();
        let mut open: Vec<&str> = package.links.iter().map(String::as_str).collect();
        while let Some(next) = open.pop().and_then(|id| by_id.get(id)) {
            if names.insert(next.name.as_str()) {
                open.extend(next.links.iter().map(String::as_str));
            }
        }
        names
    }
}

fn not_optional(package: &Value) -> Vec<String> {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let always = dependencies
        .iter()
        .filter(|dependency| dependency["kind"].is_null() && dependency["optional"] != true);
    always.filter_map(|dependency| text(&dependency["name"])).collect()
}

/// Ids of the packages that this node of the graph depends on; `linked` leaves out what only tests and build scripts use.
fn needed_by(node: &Value, linked: bool) -> Vec<String> {
    let deps = node["deps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_linked = |dep: &&Value| {
        dep["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    deps.iter().filter(|dep| !linked || is_linked(dep)).filter_map(|dep| text(&dep["pkg"])).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_build_scripts_do_not_count_as_linked() {
        let kinds = |kind: Value| serde_json::json!([{ "kind": kind }]);
        let node = serde_json::json!({ "deps": [
            { "pkg": "a", "dep_kinds": kinds(Value::Null) },
            { "pkg": "b", "dep_kinds": kinds("dev".into()) },
            { "pkg": "c", "dep_kinds": kinds("build".into()) },
        ]});
        assert_eq!(needed_by(&node, true), ["a"]);
        assert_eq!(needed_by(&node, false), ["a", "b", "c"]);
    }

    #[test]
    fn the_closure_of_this_workspace_is_known() {
        let _alone = crate::bench::alone();
        let packages = Packages::load().unwrap();
        let event = packages.own().find(|package| package.name == "watchfire-event").unwrap();
        assert!(packages.closure(event).contains("thiserror"));
        assert!(!packages.closure(event).contains("tokio"));
    }
}
