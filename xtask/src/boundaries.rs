//! The boundaries of the design, as far as a machine can see them: who may link whom.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::metadata::{Package, Packages};
use crate::style::rust_files;

/// What the lake, the database and the web are made of.
const SERVER_SIDE: [&str; 6] =
    ["watchfire-lake", "watchfire-alertdb", "watchfire-server", "axum", "rusqlite", "parquet"];
/// What eBPF is made of, and the agent around it.
const HOST_SIDE: [&str; 3] = ["aya", "watchfire-sensor", "watchfire-agent"];

/// No package of `packages` may link any of `barred`.
struct Wall {
    packages: &'static [&'static str],
    barred: &'static [&'static str],
    why: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        packages: &[
            "watchfire-agent",
            "watchfire-agent-program",
            "watchfire-sensor",
            "watchfire-detect",
            "watchfire-host",
        ],
        barred: &SERVER_SIDE,
        why: "the agent never links the lake, the database or the web",
    },
    Wall {
        packages: &["watchfire-server", "watchfire-lake", "watchfire-alertdb"],
        barred: &HOST_SIDE,
        why: "the server never links eBPF",
    },
    Wall {
        packages: &["watchfire-sensor"],
        barred: &["watchfire-agent", "watchfire-detect", "watchfire-rule", "watchfire-wire"],
        why: "a sensor yields events and knows nothing of agents",
    },
    Wall {
        packages: &["watchfire-rule"],
        barred: &[
            "watchfire-host",
            "watchfire-sensor",
            "watchfire-wire",
            "watchfire-detect",
            "tokio",
            "rustix",
            "ureq",
        ],
        why: "the rule crate is pure",
    },
    Wall {
        packages: &["watchfire-lake", "watchfire-alertdb"],
        barred: &["watchfire-rule", "watchfire-detect", "watchfire-host"],
        why: "a store knows nothing of detection",
    },
    Wall {
        packages: &[
            "watchfire-app",
            "watchfire-pace",
            "watchfire-spool",
            "watchfire-confine",
            "watchfire-logfile",
        ],
        barred: &[
            "watchfire-agent",
            "watchfire-sensor",
            "watchfire-detect",
            "watchfire-rule",
            "watchfire-wire",
        ],
        why: "what holds a worker in its bounds knows nothing of what it does",
    },
];

/// Calls that the ground floor and the rule crate must not make.
const PURE: [&str; 2] = ["watchfire-event", "watchfire-rule"];
const IMPURE: [&str; 6] =
    ["std::fs", "std::net::Tcp", "std::net::Udp", "std::process::Command", "thread::spawn", "async fn"];

/// Checks every wall; names each crossing.
pub(crate) fn check() -> Result<String> {
    let packages = Packages::load()?;
    let mut faults = crossings(&packages)?;
    for name in PURE {
        faults.extend(impure_calls(named(&packages, name)?)?);
    }
    if !faults.is_empty() {
        bail!("{} boundaries crossed:\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(format!("{} crates", packages.own().count()))
}

fn crossings(packages: &Packages) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for wall in WALLS {
        for name in wall.packages {
            let closure = packages.closure(named(packages, name)?);
            let crossed = wall.barred.iter().filter(|barred| closure.contains(**barred));
            faults.extend(crossed.map(|barred| format!("{name} links {barred}: {}", wall.why)));
        }
    }
    let floor = &named(packages, "watchfire-event")?.always;
    if *floor != ["thiserror"] {
        faults.push(format!("watchfire-event links {floor:?}: the ground floor needs thiserror alone"));
    }
    for package in packages.own() {
        faults.extend(one_way(packages, package));
    }
    Ok(faults)
}

/// Programs → crates, never back; and one program alone joins both sides.
fn one_way(packages: &Packages, package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    let closure = packages.closure(package);
    let programs =
        packages.own().filter(|other| !other.folder.contains("/crates/")).map(|other| other.name.as_str());
    for program in programs.filter(|program| closure.contains(program)) {
        faults.push(format!("{} links {program}: nothing links a program", package.name));
    }
    let joins = closure.contains("watchfire-server") && closure.contains("watchfire-sensor");
    if joins && package.name != "watchfire-program" {
        faults.push(format!("{} joins server and sensor: only `watchfire` may", package.name));
    }
    faults
}

/// Lines of a pure crate, before its tests, that touch the world.
fn impure_calls(package: &Package) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in rust_files(&[format!("{}/src", package.folder).into()])? {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let body = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = body.lines().filter(|line| !line.trim_start().starts_with("//"));
        for call in code.flat_map(|line| IMPURE.iter().filter(move |call| line.contains(**call))) {
            faults.push(format!("{} is pure, yet {} says {call}", package.name, file.display()));
        }
    }
    Ok(faults)
}

fn named<'a>(packages: &'a Packages, name: &str) -> Result<&'a Package> {
    packages
        .own()
        .find(|package| package.name == name)
        .with_context(|| format!("no package {name} in this workspace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, links: &[&str]) -> Package {
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            license: None,
            source: None,
            folder: format!("/clone/{folder}"),
            links: links.iter().map(|link| (*link).to_owned()).collect(),
            needs: Vec::new(),
            always: links.iter().map(|link| (*link).to_owned()).collect(),
        }
    }

    fn workspace() -> Packages {
        let library = |name: &str, links: &[&str]| package(name, "crates/x", links);
        Packages {
            all: vec![
                library("thiserror", &[]),
                library("aya", &[]),
                library("axum", &[]),
                library("watchfire-event", &["thiserror"]),
                library("watchfire-sensor", &["aya"]),
                library("watchfire-server", &["axum"]),
                library("watchfire-agent", &["watchfire-sensor"]),
                library("watchfire-detect", &[]),
                library("watchfire-host", &[]),
                library("watchfire-lake", &[]),
                library("watchfire-alertdb", &[]),
                library("watchfire-rule", &[]),
                library("watchfire-app", &[]),
                library("watchfire-plugin", &[]),
                library("watchfire-pace", &[]),
                library("watchfire-spool", &[]),
                library("watchfire-confine", &[]),
                library("watchfire-logfile", &[]),
                package("watchfire-agent-program", "programs/a", &["watchfire-agent"]),
                package("watchfire-program", "programs/w", &["watchfire-server", "watchfire-agent"]),
            ],
        }
    }

    fn link(packages: &mut Packages, from: &str, to: &str) {
        packages.all.iter_mut().find(|package| package.name == from).unwrap().links.push(to.to_owned());
    }

    #[test]
    fn the_intended_shape_passes() {
        assert_eq!(crossings(&workspace()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_crossing_is_found_through_other_crates() {
        let mut packages = workspace();
        link(&mut packages, "watchfire-detect", "watchfire-server");
        let faults = crossings(&packages).unwrap();
        assert!(faults.iter().any(|fault| fault.starts_with("watchfire-detect links axum")), "{faults:?}");
    }

    #[test]
    fn the_ground_floor_needs_nothing_more() {
        let mut packages = workspace();
        packages
            .all
            .iter_mut()
            .find(|package| package.name == "watchfire-event")
            .unwrap()
            .always
            .push("aya".to_owned());
        assert!(crossings(&packages).unwrap().iter().any(|fault| fault.contains("ground floor")));
    }

    #[test]
    fn nothing_links_a_program_and_one_program_joins_both_sides() {
        let mut packages = workspace();
        link(&mut packages, "watchfire-host", "watchfire-agent-program");
        link(&mut packages, "watchfire-agent-program", "watchfire-server");
        let faults = crossings(&packages).unwrap().join("\n");
        assert!(
            faults.contains("watchfire-host links watchfire-agent-program: nothing links a program"),
            "{faults}"
        );
        assert!(faults.contains("watchfire-agent-program joins server and sensor"), "{faults}");
    }
}
