//! Licences, sources and bans of every crate that is linked, by `deny.toml`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::metadata::{Package, Packages};
use crate::workspace;

/// The part of cargo-deny's format that is checked here; a key that would be ignored is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
    /// Packages that may depend on it directly all the same.
    #[serde(default)]
    wrappers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// Checks the whole locked build.
pub(crate) fn check() -> Result<String> {
    let path = workspace::root().join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let policy: Policy = toml::from_str(&text).context("deny.toml")?;
    let packages = Packages::load()?;
    let faults = faults(&policy, &packages);
    if !faults.is_empty() {
        bail!("deny.toml forbids {} things:\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(format!("{} packages", packages.all.len()))
}

fn faults(policy: &Policy, packages: &Packages) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &packages.all {
        let label = format!("{} {}", package.name, package.version);
        match package.license.as_deref().map(|expression| allows(&policy.licenses.allow, expression)) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => {
                faults.push(format!("{label}: licence {}", package.license.as_deref().unwrap_or_default()))
            }
            Some(Err(error)) => faults.push(format!("{label}: {error:#}")),
            None => faults.push(format!("{label}: states no licence")),
        }
        if let Some(source) =
            package.source.as_deref().filter(|source| !from_allowed(&policy.sources, source))
        {
            faults.push(format!("{label}: comes from {source}"));
        }
        faults.extend(policy.bans.deny.iter().filter_map(|ban| banned(ban, package, packages)));
    }
    faults
}

fn from_allowed(sources: &Sources, source: &str) -> bool {
    source
        .strip_prefix("registry+")
        .is_some_and(|url| sources.allow_registry.iter().any(|allowed| allowed == url))
}

fn banned(ban: &Ban, package: &Package, packages: &Packages) -> Option<String> {
    if package.name != ban.name {
        return None;
    }
    let users =
        packages.all.iter().filter(|user| user.needs.contains(&package.id)).map(|user| user.name.as_str());
    let barred: Vec<&str> =
        users.filter(|user| !ban.wrappers.iter().any(|wrapper| wrapper == user)).collect();
    let excused = barred.is_empty() && !ban.wrappers.is_empty();
    (!excused).then(|| format!("{}, used by {}: {}", ban.name, barred.join(", "), ban.reason))
}

/// Evaluates an SPDX expression: OR needs one side, AND both. `MIT/Apache-2.0` is the old spelling of OR.
fn allows(allowed: &BTreeSet<String>, expression: &str) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let verdict = either(allowed, &mut rest).with_context(|| format!("licence {expression:?}"))?;
    if !rest.is_empty() {
        bail!("licence {expression:?}: cannot read {:?}", rest.join(" "));
    }
    Ok(verdict)
}

fn either(allowed: &BTreeSet<String>, rest: &mut &[&str]) -> Result<bool> {
    let mut verdict = both(allowed, rest)?;
    while let Some(after) = rest.strip_prefix(&["OR"]) {
        *rest = after;
        verdict |= both(allowed, rest)?;
    }
    Ok(verdict)
}

fn both(allowed: &BTreeSet<String>, rest: &mut &[&str]) -> Result<bool> {
    let mut verdict = one(allowed, rest)?;
    while let Some(after) = rest.strip_prefix(&["AND"]) {
        *rest = after;
        verdict &= one(allowed, rest)?;
    }
    Ok(verdict)
}

fn one(allowed: &BTreeSet<String>, rest: &mut &[&str]) -> Result<bool> {
    match **rest {
        ["(", ref inner @ ..] => {
            *rest = inner;
            let verdict = either(allowed, rest)?;
            *rest = rest.strip_prefix(&[")"]).context("no closing bracket")?;
            Ok(verdict)
        }
        [license, "WITH", exception, ref after @ ..] => {
            *rest = after;
            Ok(allowed.contains(license) || allowed.contains(&format!("{license} WITH {exception}")))
        }
        [license, ref after @ ..] if !matches!(license, ")" | "OR" | "AND" | "WITH") => {
            *rest = after;
            Ok(allowed.contains(license))
        }
        _ => bail!("a licence is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(expression: &str) -> Result<bool> {
        allows(&BTreeSet::from(["MIT".to_owned(), "Apache-2.0".to_owned(), "ISC".to_owned()]), expression)
    }

    #[test]
    fn licence_expressions_are_evaluated() {
        for good in [
            "MIT",
            "GPL-2.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(allowed(good).unwrap(), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-2.0",
            "(GPL-2.0 OR LGPL-3.0) AND MIT",
            "GPL-2.0 WITH Classpath-exception-2.0",
        ] {
            assert!(!allowed(bad).unwrap(), "{bad}");
        }
        for broken in ["", "MIT OR", "(MIT", "MIT Apache-2.0", "AND"] {
            assert!(allowed(broken).is_err(), "{broken:?}");
        }
    }

    fn package(name: &str, license: &str, source: Option<&str>, links: &[&str]) -> Package {
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: Some(license.to_owned()),
            source: source.map(str::to_owned),
            folder: String::new(),
            links: Vec::new(),
            always: Vec::new(),
            needs: links.iter().map(|link| (*link).to_owned()).collect(),
        }
    }

    #[test]
    fn licences_sources_and_bans_are_held() {
        let policy: Policy = toml::from_str(
            "[licenses]\nallow = ['MIT']\n[sources]\nallow-registry = ['https://good']\n\
             [bans]\ndeny = [{ crate = 'bad', reason = 'use good' }, { crate = 'tool', wrappers = ['xtask'], reason = 'no' }]",
        )
        .unwrap();
        let good = Some("registry+https://good");
        let packages = Packages {
            all: vec![
                package("agent", "MIT", None, &["bad", "forked", "gpl"]),
                package("xtask", "MIT", None, &["tool"]),
                package("bad", "MIT", good, &[]),
                package("tool", "MIT", good, &[]),
                package("forked", "MIT", Some("git+https://good"), &[]),
                package("gpl", "GPL-3.0", good, &[]),
            ],
        };
        let faults = faults(&policy, &packages);
        assert_eq!(
            faults,
            [
                "bad, used by agent: use good",
                "forked 1.0.0: comes from git+https://good",
                "gpl 1.0.0: licence GPL-3.0"
            ]
        );
    }

    #[test]
    fn a_wrapper_excuses_only_itself() {
        let ban =
            Ban { name: "tool".to_owned(), reason: "no".to_owned(), wrappers: vec!["xtask".to_owned()] };
        let tool = package("tool", "MIT", Some("x"), &[]);
        let packages = Packages {
            all: vec![package("xtask", "MIT", None, &["tool"]), package("agent", "MIT", None, &["tool"])],
        };
        assert_eq!(banned(&ban, &tool, &packages).unwrap(), "tool, used by agent: no");
    }

    #[test]
    fn a_key_that_nothing_checks_is_refused() {
        assert!(toml::from_str::<Policy>("[advisories]\nignore = []").is_err());
    }
}
