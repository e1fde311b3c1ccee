//! The project's own rules, carried in the program.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::detectors::detectors;

/// One rule file of the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRule {
    /// Its name: the file's, without `.yml`.
    pub slug: &'static str,
    /// Where it stands in the repository.
    pub source: &'static str,
    /// The Sigma YAML.
    pub text: &'static str,
}

macro_rules! pack {
    ($($slug:literal),* $(,)?) => {
        &[$(PackRule {
            slug: $slug,
            source: concat!("rules/", $slug, ".yml"),
            text: include_str!(concat!("../../../rules/", $slug, ".yml")),
        }),*]
    };
}

static PACK: &[PackRule] = pack![
    "account_created",
    "bpf_program_load",
    "container_escape_mount",
    "cron_persistence",
    "crypto_miner",
    "discovery_burst",
    "exec_world_writable",
    "exfil_archive_upload",
    "fileless_exec",
    "history_wiped",
    "kernel_module_load",
    "ld_so_preload",
    "log_deleted",
    "namespace_escape",
    "pam_changed",
    "private_key_read",
    "privilege_gained",
    "ptrace_injection",
    "release_agent",
    "reverse_shell_socket",
    "security_tool_disabled",
    "setuid_shell",
    "shadow_read",
    "shell_network_connect",
    "shell_profile_persistence",
    "ssh_authorized_keys",
    "sudoers_changed",
    "suspicious_sudo",
    "systemd_persistence",
    "timestomp",
    "web_server_spawns_shell",
];

/// Every Sigma rule of the pack. The detectors in Rust are listed by [`crate::detectors()`].
pub fn pack() -> &'static [PackRule] {
    PACK
}

/// The id that alerts of a rule or detector carry, by its name in the pack.
pub fn rule_id(slug: &str) -> Option<&'static str> {
    static IDS: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
        let rules = pack().iter().filter_map(|rule| Some((rule.slug, speaking_id(rule.text)?)));
        rules.chain(detectors().map(|info| (info.slug, info.slug))).collect()
    });
    IDS.get(slug).copied()
}

/// The id of the last document: where a correlation stands behind its base rule, it is the one that speaks.
fn speaking_id(text: &'static str) -> Option<&'static str> {
    text.lines().filter_map(|line| line.strip_prefix("id:")).next_back().map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use watchfire_rule::{LoadLimits, RuleText, load};

    use super::*;

    #[test]
    fn the_list_is_what_the_directory_holds() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules");
        let names =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> =
            names.filter_map(|name| name.strip_suffix(".yml").map(str::to_owned)).collect();
        let listed: BTreeSet<String> = pack().iter().map(|rule| rule.slug.to_owned()).collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn every_rule_loads_can_speak_in_full_and_says_what_the_pack_asks_of_it() {
        let texts: Vec<RuleText> = pack()
            .iter()
            .map(|rule| RuleText { source: rule.source.into(), text: rule.text.into() })
            .collect();
        let loaded = load(&texts, LoadLimits::default());
        assert!(loaded.faults.is_empty(), "{:#?}", loaded.faults);
        assert!(
            loaded.silent.is_empty() && loaded.partial.is_empty(),
            "{:#?} {:#?}",
            loaded.silent,
            loaded.partial
        );
        for rule in pack() {
            let id = rule_id(rule.slug).unwrap();
            let info = loaded.rules.infos().find(|info| info.id == id).unwrap();
            assert!(!info.attack.is_empty(), "{}: no technique", rule.slug);
            for key in ["title:", "status:", "description:", "author: Watchfire", "falsepositives:", "level:"]
            {
                assert!(rule.text.lines().any(|line| line.starts_with(key)), "{}: no {key}", rule.slug);
            }
            let groups: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{}: {id} is no UUID", rule.slug);
        }
        assert!(pack().len() + detectors().count() >= 30);
    }

    #[test]
    fn detectors_are_found_by_name_like_rules() {
        assert_eq!(rule_id("port_scan"), Some("port_scan"));
        assert_eq!(rule_id("no_such_rule"), None);
    }
}
