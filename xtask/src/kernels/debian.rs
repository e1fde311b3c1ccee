//! Debian's kernels, qemu and busybox, by a private apt that neither reads nor writes this machine's package state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{find, output, run};

const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where qemu comes from: the 7.2 of bookworm crashes kernel 6.12 with an emulated CPU, the one of backports does not.
const TOOL_SUITES: &[&str] = &["bookworm", "bookworm-backports"];
/// Packages that this machine's own must stand in for: a program and its C library have to fit.
const OWN_LIBRARIES: [&str; 2] = ["libc6_", "libgcc-s1_"];

/// The private apt, and what it has unpacked.
pub(super) struct Archive {
    folder: PathBuf,
}

/// A kernel ready to boot.
pub(super) struct Kernel {
    pub(super) series: String,
    /// As `uname -r` will say it.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// `/lib/modules/RELEASE` of the package.
    pub(super) modules: PathBuf,
}

impl Archive {
    /// Prepares the folder. Lists are fetched when a package is asked for and not yet unpacked.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            if find(tool).is_none() {
                bail!("{tool} is missing: kernels come as Debian packages");
            }
        }
        if !Path::new(KEYRING).exists() {
            bail!(
                "{KEYRING} is missing, so Debian's packages cannot be trusted: install debian-archive-keyring"
            );
        }
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Archive { folder: folder.to_owned() })
    }

    /// Where everything is kept.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Unpacks qemu, its libraries and busybox unless that has been done.
    pub(super) fn tools(&self) -> Result<()> {
        if self.qemu().exists() && self.busybox().is_ok() {
            return Ok(());
        }
        let apt = Apt::new(self, "tools", TOOL_SUITES)?;
        apt.update()?;
        let debs = apt.download_with_dependencies(&["qemu-system-x86", "busybox-static"])?;
        for deb in debs {
            let name = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !OWN_LIBRARIES.iter().any(|own| name.starts_with(own)) {
                unpack(&deb, &self.tool_root())?;
            }
        }
        Ok(())
    }

    fn tool_root(&self) -> PathBuf {
        self.folder.join("tools-root")
    }

    /// The emulator.
    pub(super) fn qemu(&self) -> PathBuf {
        self.tool_root().join("usr/bin/qemu-system-x86_64")
    }

    /// Folders of the emulator's libraries, as the dynamic linker takes them.
    pub(super) fn library_path(&self) -> String {
        let folders =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio"];
        folders.map(|folder| self.tool_root().join(folder).display().to_string()).join(":")
    }

    /// Folders of the emulator's firmware.
    pub(super) fn firmware(&self) -> [PathBuf; 2] {
        ["usr/share/qemu", "usr/share/seabios"].map(|folder| self.tool_root().join(folder))
    }

    /// A busybox without libraries.
    pub(super) fn busybox(&self) -> Result<PathBuf> {
        let places = ["bin/busybox", "usr/bin/busybox"].map(|place| self.tool_root().join(place));
        places.into_iter().find(|place| place.exists()).context("no busybox in busybox-static")
    }

    /// The newest cloud kernel of this series; what an earlier run has unpacked is used again.
    pub(super) fn kernel(&self, series: &str, suites: &[&str]) -> Result<Kernel> {
        let root = self.folder.join(format!("kernel-{series}"));
        if let Ok(kernel) = unpacked(series, &root) {
            return Ok(kernel);
        }
        let apt = Apt::new(self, &format!("kernel-{series}"), suites)?;
        apt.update()?;
        let mut tried = Vec::new();
        for package in apt.cloud_kernels(series)? {
            // A package can have left the mirror while the list still names it: try the next.
            match apt.download(&package) {
                Ok(deb) => {
                    unpack(&deb, &root)?;
                    return unpacked(series, &root);
                }
                Err(error) => tried.push(format!("{package}: {error:#}")),
            }
        }
        bail!(
            "no cloud kernel {series} in {} could be downloaded; tried: {}",
            suites.join(", "),
            tried.join("; ")
        )
    }
}

fn unpacked(series: &str, root: &Path) -> Result<Kernel> {
    let boot = root.join("boot");
    let files = fs::read_dir(&boot).with_context(|| format!("read {}", boot.display()))?;
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let release = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).max();
    let release = release.with_context(|| format!("no kernel in {}", boot.display()))?;
    let modules = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(&release));
    Ok(Kernel {
        series: series.to_owned(),
        image: boot.join(format!("vmlinuz-{release}")),
        modules: modules
            .into_iter()
            .find(|place| place.exists())
            .context("the kernel package has no modules")?,
        release,
    })
}

fn unpack(deb: &Path, root: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root))
}

/// apt with folders of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(archive: &Archive, name: &str, suites: &[&str]) -> Result<Self> {
        let folder = archive.folder.join("apt").join(name);
        for part in ["etc", "state/lists/partial", "cache/archives/partial", "debs"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let lines = suites.iter().map(|suite| {
            let mirror = if suite.ends_with("-security") { SECURITY } else { MIRROR };
            format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        });
        fs::write(folder.join("etc/sources.list"), lines.collect::<String>())
            .context("write a sources.list")?;
        // An empty list of installed packages: every dependency counts as missing, and is downloaded.
        fs::write(folder.join("state/status"), "").context("write an empty package status")?;
        Ok(Apt { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |part: &str| self.folder.join(part).display().to_string();
        for (key, value) in [
            ("Dir::Etc::SourceList", place("etc/sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("Dir::Etc::Preferences", "/dev/null".to_owned()),
            ("Dir::Etc::PreferencesParts", "/dev/null".to_owned()),
            ("Dir::State", place("state")),
            ("Dir::State::Status", place("state/status")),
            ("Dir::Cache", place("cache")),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
            // The sandbox user of apt cannot enter a cache folder below a home.
            ("APT::Sandbox::User", "root".to_owned()),
            // A stale list is refetched at need; an expired one of a frozen mirror still names what is there.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
            ("Debug::NoLocking", "true".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["update", "-qq"])).context("fetch Debian's package lists")
    }

    /// Names of the series' cloud kernels, newest first.
    fn cloud_kernels(&self, series: &str) -> Result<Vec<String>> {
        let pattern = format!("^linux-image-{}\\..*cloud-amd64(-unsigned)?$", series.replace('.', "\\."));
        let found = output(self.command("apt-cache").args(["search", "--names-only", &pattern]))?;
        let mut names: Vec<String> =
            found.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
        // The unsigned twin of a package comes after it, as the second choice.
        names.sort_by_key(|name| (std::cmp::Reverse(numbers(name)), name.ends_with("-unsigned")));
        if names.is_empty() {
            bail!("no package matches {pattern}");
        }
        Ok(names)
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        let folder = self.folder.join("debs").join(package);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        run(self.command("apt-get").args(["download", "-qq", package]).current_dir(&folder))?;
        debs(&folder)?.pop().with_context(|| format!("apt-get download {package} left no file"))
    }

    fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut install = self.command("apt-get");
        install.args([
            "install",
            "-qq",
            "-y",
            "--download-only",
            "-o",
            "Dpkg::Use-Pty=0",
            "-t",
            "bookworm-backports",
        ]);
        install.args(packages);
        run(&mut install)?;
        debs(&self.folder.join("cache/archives"))
    }
}

/// The numbers in a package's name, to order `-9-` before `-46-`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let older = numbers("linux-image-6.1.0-9-cloud-amd64");
        assert!(older < numbers("linux-image-6.1.0-46-cloud-amd64"));
        assert!(
            numbers("linux-image-6.12.9+deb12-cloud-amd64")
                < numbers("linux-image-6.12.95+deb12-cloud-amd64")
        );
    }
}
