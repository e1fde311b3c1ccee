//! Which paths the settings mean: globs, compared component by component.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::settings::FileSettings;

/// What is asked of one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Coverage {
    /// Everything in it is watched.
    pub(super) full: bool,
    /// Single files in it are watched.
    pub(super) listed: bool,
    /// Something below it is watched: new directories in it matter.
    pub(super) leads: bool,
}

impl Coverage {
    pub(super) fn is_none(self) -> bool {
        self == Coverage::default()
    }
}

/// The settings' paths, ready to be compared.
#[derive(Debug)]
pub(super) struct Patterns {
    prefixes: Vec<Pattern>,
    exact: Vec<Pattern>,
    secrets: Vec<Pattern>,
    excludes: Vec<Pattern>,
    max_depth: usize,
}

impl Patterns {
    /// Takes the settings' paths; `Err` holds one that is not absolute.
    pub(super) fn new(settings: &FileSettings) -> Result<Self, Vec<u8>> {
        let all = |paths: &[std::path::PathBuf]| {
            paths.iter().map(|path| Pattern::new(path.as_os_str().as_bytes())).collect::<Result<Vec<_>, _>>()
        };
        let secrets = settings.secrets.iter().map(|path| Pattern::new(path.as_bytes()));
        Ok(Patterns {
            prefixes: all(&settings.prefixes)?,
            exact: all(&settings.exact)?,
            secrets: secrets.collect::<Result<_, _>>()?,
            excludes: all(&settings.excludes)?,
            max_depth: settings.max_depth,
        })
    }

    /// What is asked of the directory `path`.
    pub(super) fn of_directory(&self, path: &[u8]) -> Coverage {
        let parts = components(path);
        if self.excluded(&parts) {
            return Coverage::default();
        }
        let mut coverage = Coverage::default();
        for prefix in &self.prefixes {
            if prefix.begins(&parts) {
                coverage.full |= parts.len() - prefix.parts.len() <= self.max_depth;
            } else {
                coverage.leads |= prefix.continues(&parts);
            }
        }
        for file in self.exact.iter().chain(&self.secrets).filter(|file| file.continues(&parts)) {
            let inside = file.parts.len() == parts.len() + 1;
            coverage.listed |= inside;
            coverage.leads |= !inside;
        }
        coverage
    }

    /// Whether `path` lies deeper below a prefix than is watched.
    pub(super) fn too_deep(&self, path: &[u8]) -> bool {
        let parts = components(path);
        let below = self.prefixes.iter().filter(|prefix| prefix.begins(&parts));
        below
            .min_by_key(|prefix| parts.len() - prefix.parts.len())
            .is_some_and(|prefix| parts.len() - prefix.parts.len() > self.max_depth)
    }

    /// Whether what happens to `path`, in a directory of `coverage`, is to be reported.
    pub(super) fn wants(&self, path: &[u8], coverage: Coverage) -> bool {
        let parts = components(path);
        if self.excluded(&parts) {
            return false;
        }
        let listed = || self.exact.iter().chain(&self.secrets).any(|file| file.matches(&parts));
        // A prefix that is itself a file, or a directory seen from the one above it.
        let prefix = || self.prefixes.iter().any(|prefix| prefix.matches(&parts));
        coverage.full || listed() || prefix()
    }

    /// Whether `path` is a secret, whose opening is reported.
    pub(super) fn secret(&self, path: &[u8]) -> bool {
        if path.ends_with(b".pub") {
            return false;
        }
        let parts = components(path);
        self.secrets.iter().any(|secret| secret.matches(&parts)) && !self.excluded(&parts)
    }

    /// The longest leading part of each pattern that holds no wildcard, as a directory: what a file system mark goes on.
    pub(super) fn literal_roots(&self) -> Vec<Vec<u8>> {
        let all = self.prefixes.iter().chain(&self.exact).chain(&self.secrets);
        let mut roots: Vec<Vec<u8>> = all.map(Pattern::literal_root).collect();
        roots.sort();
        roots.dedup();
        roots
    }

    /// Replaces leading symbolic links (`/bin` for `/usr/bin`) by what they point to, for the parts of the patterns that
    /// hold no wildcard: what lies below a wildcard belongs to a user, and is never followed.
    pub(super) fn resolve_links(&mut self) {
        let all = [&mut self.prefixes, &mut self.exact, &mut self.secrets, &mut self.excludes];
        for pattern in all.into_iter().flatten() {
            pattern.resolve_links();
        }
    }

    fn excluded(&self, parts: &[&[u8]]) -> bool {
        self.excludes.iter().any(|exclude| exclude.begins(parts))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    parts: Vec<Vec<u8>>,
}

impl Pattern {
    fn new(path: &[u8]) -> Result<Self, Vec<u8>> {
        if !path.starts_with(b"/") {
            return Err(path.to_vec());
        }
        Ok(Pattern { parts: components(path).into_iter().map(<[u8]>::to_vec).collect() })
    }

    fn matches(&self, parts: &[&[u8]]) -> bool {
        self.parts.len() == parts.len() && self.begins(parts)
    }

    /// The pattern means `parts` or a directory above it.
    fn begins(&self, parts: &[&[u8]]) -> bool {
        self.parts.len() <= parts.len()
            && self.parts.iter().zip(parts).all(|(glob, part)| glob_matches(glob, part))
    }

    /// The pattern means something below `parts`.
    fn continues(&self, parts: &[&[u8]]) -> bool {
        self.parts.len() > parts.len()
            && self.parts.iter().zip(parts).all(|(glob, part)| glob_matches(glob, part))
    }

    fn literal_count(&self) -> usize {
        self.parts.iter().take_while(|part| !part.iter().any(|byte| matches!(byte, b'*' | b'?'))).count()
    }

    fn literal_root(&self) -> Vec<u8> {
        join(&self.parts[..self.literal_count().min(self.parts.len().saturating_sub(1))])
    }

    fn resolve_links(&mut self) {
        for count in (1..=self.literal_count()).rev() {
            let literal = join(&self.parts[..count]);
            let Ok(real) = std::fs::canonicalize(Path::new(std::ffi::OsStr::from_bytes(&literal))) else {
                continue;
            };
            let real = components(real.as_os_str().as_bytes()).into_iter().map(<[u8]>::to_vec);
            self.parts = real.chain(self.parts[count..].iter().cloned()).collect();
            return;
        }
    }
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    if parts.is_empty() {
        return b"/".to_vec();
    }
    parts.iter().flat_map(|part| [b"/", part.as_slice()].concat()).collect()
}

/// The components of a path, without empty ones.
pub(super) fn components(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect()
}

/// `*` and `?` within one component. Goes back to the last `*` only, so it takes at most length times length steps.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while seen < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                retry = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                (at, seen) = (star + 1, from + 1);
            }
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns() -> Patterns {
        let settings = FileSettings {
            prefixes: vec!["/etc".into(), "/home/*/.ssh".into()],
            exact: vec!["/home/*/.bashrc".into()],
            secrets: vec!["/home/*/.ssh/id_*".to_owned(), "/root/.kube/config".to_owned()],
            excludes: vec!["/etc/skip".into(), "/etc/*.tmp".into()],
            max_depth: 2,
            ..FileSettings::default()
        };
        Patterns::new(&settings).unwrap()
    }

    #[test]
    fn a_directory_is_full_listed_or_on_the_way() {
        let patterns = patterns();
        let of = |path: &str| {
            let coverage = patterns.of_directory(path.as_bytes());
            (coverage.full, coverage.listed, coverage.leads)
        };
        assert_eq!(of("/"), (false, false, true));
        assert_eq!(of("/etc"), (true, false, false));
        assert_eq!(of("/etc/a/b"), (true, false, false));
        assert_eq!(of("/etc/a/b/c"), (false, false, false), "too deep");
        assert!(
            patterns.too_deep(b"/etc/a/b/c") && !patterns.too_deep(b"/etc/a/b") && !patterns.too_deep(b"/x")
        );
        assert_eq!(of("/home"), (false, false, true));
        assert_eq!(of("/home/eve"), (false, true, true));
        assert_eq!(of("/home/eve/.ssh"), (true, true, false));
        assert_eq!(of("/root/.kube"), (false, true, false));
        assert_eq!(of("/etc/skip/x"), (false, false, false));
        assert_eq!(of("/var"), (false, false, false));
    }

    #[test]
    fn files_are_wanted_by_their_directory_or_by_name() {
        let patterns = patterns();
        let home = patterns.of_directory(b"/home/eve");
        assert!(patterns.wants(b"/home/eve/.bashrc", home) && !patterns.wants(b"/home/eve/notes", home));
        assert!(patterns.wants(b"/home/eve/.ssh", home), "a watched directory itself");
        let etc = patterns.of_directory(b"/etc");
        assert!(
            patterns.wants(b"/etc/any", etc)
                && !patterns.wants(b"/etc/skip", etc)
                && !patterns.wants(b"/etc/x.tmp", etc)
        );
        assert!(patterns.secret(b"/home/eve/.ssh/id_rsa") && !patterns.secret(b"/home/eve/.ssh/id_rsa.pub"));
    }

    #[test]
    fn globs_match_within_a_component() {
        for (glob, name, expected) in [
            ("id_*", "id_rsa", true),
            ("id_*", "id_", true),
            ("*_key", "ssh_host_rsa_key", true),
            ("ssh_*_key", "ssh_key", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*a*b", "aaaaaaaaaa", false),
            ("", "", true),
            ("*", "\n", true),
        ] {
            assert_eq!(glob_matches(glob.as_bytes(), name.as_bytes()), expected, "{glob} {name}");
        }
    }

    #[test]
    fn a_relative_path_is_refused() {
        let settings = FileSettings { exact: vec!["etc/passwd".into()], ..FileSettings::default() };
        assert_eq!(Patterns::new(&settings).unwrap_err(), b"etc/passwd");
    }

    proptest! {
        #[test]
        fn a_glob_without_wildcards_matches_only_itself(glob in "[a-z]{0,6}", name in "[a-z]{0,6}") {
            prop_assert_eq!(glob_matches(glob.as_bytes(), name.as_bytes()), glob == name);
        }

        #[test]
        fn globs_agree_with_a_plain_definition(glob in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            prop_assert_eq!(glob_matches(glob.as_bytes(), name.as_bytes()), plain(glob.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn no_path_panics(path in proptest::collection::vec(any::<u8>(), 0..100)) {
            let patterns = patterns();
            let coverage = patterns.of_directory(&path);
            let _seen = (patterns.wants(&path, coverage), patterns.secret(&path), patterns.too_deep(&path));
        }
    }

    fn plain(glob: &[u8], name: &[u8]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if plain(rest, name) => true,
            (Some((b'*', _)), Some((_, after))) => plain(glob, after),
            (Some((first, rest)), Some((head, after))) => {
                (*first == b'?' || first == head) && plain(rest, after)
            }
            _ => false,
        }
    }
}
