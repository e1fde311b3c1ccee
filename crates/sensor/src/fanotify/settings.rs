//! Which files are worth watching.

use std::path::PathBuf;

/// What the fanotify source watches. Every path is absolute; a component may hold `*` (any run of bytes) and `?` (one
/// byte), which never match a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// Directories watched with everything below them, up to `max_depth`.
    pub prefixes: Vec<PathBuf>,
    /// Single files. Their directories are watched too, without what is below, so that a file that does not exist yet is
    /// noticed when it comes.
    pub exact: Vec<PathBuf>,
    /// Files whose every opening is reported, beside what happens to them otherwise. Names that end in `.pub` are left out.
    pub secrets: Vec<String>,
    /// Files and directories left out, with all that is below them.
    pub excludes: Vec<PathBuf>,
    /// The most directories and secrets marked. A mark costs the kernel about 1 KiB and keeps the inode in memory.
    pub max_marks: usize,
    /// How many levels below a prefix are watched.
    pub max_depth: usize,
    /// How the directories are marked.
    pub mode: MarkMode,
    /// Ask the kernel for a descriptor of each acting process, which tells its start time for certain. Costs a
    /// descriptor and two system calls of this process for each event, and nothing of the host's processes.
    pub pidfd: bool,
}

/// How fanotify is told what to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MarkMode {
    /// A mark on each directory: one that nobody watches costs the host nothing, and a tree with more directories than
    /// `max_marks` is not seen whole.
    #[default]
    Directories,
    /// One mark on each file system that holds a prefix: no directory is missed, and every create, write, rename and unlink
    /// on that file system costs its process about a microsecond and this source a look at its path.
    FileSystems,
}

/// What an attacker touches to stay, to hide, or to be root.
const PREFIXES: &[&str] = &[
    "/etc",
    "/root/.ssh",
    "/home/*/.ssh",
    "/root/.config/systemd",
    "/home/*/.config/systemd",
    "/root/.config/autostart",
    "/home/*/.config/autostart",
    "/var/spool/cron",
    "/var/spool/at",
    "/usr/lib/systemd",
    "/lib/systemd",
    "/run/systemd/system",
    "/usr/lib/udev/rules.d",
    "/usr/lib/security",
    "/usr/lib64/security",
    "/usr/lib/x86_64-linux-gnu/security",
    "/usr/lib/aarch64-linux-gnu/security",
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/lib",
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/var/log",
    "/var/www",
    "/srv/www",
];

/// Files a shell reads when it starts or writes what was typed to, in each home directory.
const HOME_FILES: &[&str] = &[
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".bash_history",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".zsh_history",
    ".xprofile",
    ".rhosts",
    ".forward",
];

const SECRETS: &[&str] = &[
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/security/opasswd",
    "/etc/krb5.keytab",
    "/etc/ssh/ssh_host_*_key",
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/pki/*.key",
];

/// Keys and tokens below each home directory.
const HOME_SECRETS: &[&str] = &[
    ".ssh/id_*",
    ".aws/credentials",
    ".azure/msal_token_cache.json",
    ".config/gcloud/credentials.db",
    ".config/gcloud/application_default_credentials.json",
    ".kube/config",
    ".docker/config.json",
    ".git-credentials",
    ".netrc",
    ".pgpass",
];

impl Default for FileSettings {
    fn default() -> Self {
        let homes = ["/root", "/home/*"];
        let in_homes = |names: &'static [&'static str]| {
            homes.into_iter().flat_map(move |home| names.iter().map(move |name| format!("{home}/{name}")))
        };
        FileSettings {
            prefixes: PREFIXES.iter().map(PathBuf::from).collect(),
            exact: in_homes(HOME_FILES).map(PathBuf::from).collect(),
            secrets: SECRETS.iter().map(|path| (*path).to_owned()).chain(in_homes(HOME_SECRETS)).collect(),
            excludes: Vec::new(),
            max_marks: 8192,
            max_depth: 8,
            mode: MarkMode::Directories,
            pidfd: true,
        }
    }
}
