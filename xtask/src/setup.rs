//! `cargo xtask setup`: what the tests need and this machine lacks, installed by its package manager.
//!
//! Nothing that is installed here may start: a test machine does not become an ssh server because a test needs `sshd`.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{find, is_root, run, shown};

/// Debian's hook that says whether a package's service may be started: 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Written by `cargo xtask setup`, removed when it ends.\nexit 101\n";

/// One program the tests use.
struct Need {
    /// Its name on PATH.
    program: &'static str,
    /// Debian's and Ubuntu's package.
    apt: &'static str,
    /// Fedora's and its kin's package.
    dnf: &'static str,
    /// Why.
    reason: &'static str,
}

const fn program(program: &'static str, apt: &'static str, dnf: &'static str, reason: &'static str) -> Need {
    Need { program, apt, dnf, reason }
}

const NEEDS: &[Need] = &[
    program(
        "clang-19",
        "clang-19",
        "clang",
        "compiles bpf/*.bpf.c again to compare with the objects in bpf/objects",
    ),
    program("llvm-strip-19", "llvm-19", "llvm", "strips those objects"),
    program("git", "git", "git", "lists the files whose style is checked"),
    program("bash", "bash", "bash", "performs reverse shells over /dev/tcp"),
    program("socat", "socat", "socat", "performs a reverse shell"),
    program("nc.openbsd", "netcat-openbsd", "netcat", "performs a reverse shell through a FIFO"),
    program("ncat", "ncat", "nmap-ncat", "performs a reverse shell with -e"),
    program(
        "busybox",
        "busybox-static",
        "busybox",
        "performs a reverse shell, and is a static program for containers",
    ),
    program("python3", "python3", "python3", "performs a reverse shell and downloads"),
    program("perl", "perl", "perl", "performs a reverse shell"),
    program("curl", "curl", "curl", "performs download-and-execute"),
    program("wget", "wget", "wget", "performs download-and-execute"),
    program("sshd", "openssh-server", "openssh-server", "is logged in to, on a loopback port of its own"),
    program("ssh", "openssh-client", "openssh-clients", "logs in to it"),
    program("sudo", "sudo", "sudo", "performs suspicious sudo"),
    program("ssh-keygen", "openssh-client", "openssh-clients", "makes the keys for that"),
    program("useradd", "passwd", "shadow-utils", "is run with a root of its own, to add an account there"),
    program("nsenter", "util-linux", "util-linux", "enters the namespaces of a container"),
    program("unshare", "util-linux", "util-linux", "makes those namespaces"),
    program("strace", "strace", "strace", "is the benign twin of a process injection"),
    program("tar", "tar", "tar", "packs what is then sent away"),
];

/// Installs what is missing; says what and why first. Returns how many packages were installed.
pub(crate) fn install_missing() -> Result<usize> {
    rust_components()?;
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| find(need.program).is_none()).collect();
    if missing.is_empty() {
        eprintln!("nothing is missing");
        return Ok(0);
    }
    let manager = Manager::of_this_host();
    eprintln!("the tests need, and this machine lacks:");
    for need in &missing {
        eprintln!("  {:<16} {}", manager.package(need), need.reason);
    }
    if !is_root() {
        eprintln!("sudo may now ask for your password, to install them");
    }
    let packages: BTreeSet<&str> = missing.iter().map(|need| manager.package(need)).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    manager.install(&packages)?;
    let absent: Vec<&str> = missing
        .iter()
        .filter(|need| find(need.program).is_none())
        .map(|need| manager.package(need))
        .collect();
    if !absent.is_empty() {
        bail!("installed, and yet not where they are looked for: {}", absent.join(", "));
    }
    Ok(packages.len())
}

/// A toolchain of the minimal profile has neither rustfmt nor clippy.
fn rust_components() -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        let works =
            Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
        if !works {
            eprintln!("{component} is missing: the first steps need it");
            run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("add {component} to the Rust toolchain"))?;
        }
    }
    Ok(())
}

enum Manager {
    Apt,
    Dnf,
    None,
}

impl Manager {
    fn of_this_host() -> Self {
        if find("apt-get").is_some() {
            Manager::Apt
        } else if find("dnf").is_some() {
            Manager::Dnf
        } else {
            Manager::None
        }
    }

    fn package(&self, need: &Need) -> &'static str {
        match self {
            Manager::Apt | Manager::None => need.apt,
            Manager::Dnf => need.dnf,
        }
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        match self {
            Manager::Apt => apt(packages),
            Manager::Dnf => dnf(packages),
            Manager::None => {
                bail!("neither apt-get nor dnf is here: install the above by hand (Debian's names)")
            }
        }
    }
}

fn apt(packages: &[&str]) -> Result<()> {
    let had_ssh = Path::new("/lib/systemd/system/ssh.service").exists();
    let _no_services = NoServices::while_installing()?;
    let mut update = as_root("apt-get");
    if let Err(error) = run(update.args(["update", "-qq"])) {
        // One broken third-party list must not stop the rest; a package that is not found is named by the next command.
        eprintln!("warning: {error:#}");
    }
    let mut install = as_root("env");
    install.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "-y", "-qq"]);
    install.args([
        "--no-install-recommends",
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "Dpkg::Options::=--force-confold",
    ]);
    run(install.args(packages))?;
    if !had_ssh && find("systemctl").is_some() {
        stay_off_at_next_boot();
    }
    Ok(())
}

/// The package enables its service for the next boot.
fn stay_off_at_next_boot() {
    if !Path::new("/lib/systemd/system/ssh.service").exists() {
        return;
    }
    let mut disable = as_root("systemctl");
    if let Err(error) = run(disable.args(["disable", "--quiet", "ssh.service"])) {
        eprintln!("warning: openssh-server is installed, and would start at the next boot: {error:#}");
    }
}

fn dnf(packages: &[&str]) -> Result<()> {
    // Fedora's presets start nothing at installation but sshd; tests here are tried on Debian and Ubuntu only.
    let mut install = as_root("dnf");
    install.args(["install", "-y", "--setopt=install_weak_deps=False"]).args(packages);
    run(&mut install)
        .with_context(|| format!("best effort on this distribution; by hand: {}", shown(&install)))
}

/// The program as root: directly, or through sudo.
fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Forbids the start of services while it lives. A policy that is there already belongs to this machine's owner and stays.
struct NoServices {
    written: Option<PathBuf>,
}

impl NoServices {
    fn while_installing() -> Result<Self> {
        let path = PathBuf::from(POLICY);
        if path.exists() {
            return Ok(NoServices { written: None });
        }
        if is_root() {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path);
            file.and_then(|mut file| file.write_all(POLICY_TEXT.as_bytes()))
                .with_context(|| format!("write {POLICY}"))?;
        } else {
            let script = format!("printf %s \"$1\" > {POLICY} && chmod 755 {POLICY}");
            run(as_root("sh").args(["-c", &script, "sh", POLICY_TEXT]))
                .with_context(|| format!("write {POLICY}"))?;
        }
        Ok(NoServices { written: Some(path) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let Some(path) = &self.written else { return };
        let removed = if is_root() {
            fs::remove_file(path).map_err(anyhow::Error::from)
        } else {
            run(as_root("rm").arg("-f").arg(path))
        };
        if let Err(error) = removed {
            eprintln!(
                "warning: {POLICY} stays behind and keeps services from starting; remove it: {error:#}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_says_why() {
        assert!(
            NEEDS.iter().all(|need| !need.reason.is_empty() && !need.apt.is_empty() && !need.dnf.is_empty())
        );
    }
}
