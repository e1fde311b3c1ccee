//! `cargo xtask bpf`: builds `bpf/*.bpf.c` into `bpf/objects/`, which is checked in, so that building Watchfire needs no
//! clang. `--check` builds again and compares the bytes.
//!
//! `bpf/objects/SOURCES.sha256` ties the two together: it names every C source, every header and every object with its
//! hash, in the format of `sha256sum`. The build script of `crates/sensor` compares it with the files, so that a changed
//! source cannot be built into the agent before its objects are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// One version, because another gives other bytes.
const CLANG: &str = "clang-19";
const STRIP: &str = "llvm-strip-19";
const SOURCES: &str = "SOURCES.sha256";

/// `-mcpu=v3` is what 5.10 knows; `-nostdinc` because the sources need nothing but their own headers. Line information
/// stays (`-g`, then stripped of all but BTF), its paths relative to the repository, so that every folder gives the same
/// bytes.
const FLAGS: &[&str] = &[
    "-g",
    "-O2",
    "-target",
    "bpf",
    "-mcpu=v3",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-nostdinc",
    "-Iinclude",
];

/// Builds the objects and the list of hashes; with `check`, only compares and fails when what is checked in differs.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace root")?;
    let bpf = fs::canonicalize(root.join("bpf")).context("find bpf/")?;
    let version = compiler_version()?;
    let built = tempfile::tempdir().context("make a folder for the objects")?;
    let mut sources = files(&bpf, ".bpf.c")?;
    let mut objects = Vec::new();
    for source in &sources {
        let name = source.file_name().and_then(|name| name.to_str()).context("a source has a name")?;
        let object = built.path().join(name.replace(".bpf.c", ".o"));
        compile(&bpf, name, &object)?;
        objects.push(object);
    }
    sources.extend(files(&bpf.join("include"), ".h")?);
    let list = list(&bpf, &sources, &objects, &version)?;
    let checked_in = bpf.join("objects");
    if check { compare(&checked_in, &objects, &list) } else { install(&checked_in, &objects, &list) }
}

/// The first line of `clang --version`, which names vendor and version.
fn compiler_version() -> Result<String> {
    let output = Command::new(CLANG).arg("--version").output().with_context(|| {
        format!("run {CLANG}: the objects are built with clang 19 (Debian: apt-get install clang-19 llvm-19)")
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The files of a folder whose names end so, in order.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn compile(bpf: &Path, source: &str, object: &Path) -> Result<()> {
    let prefix = format!("-ffile-prefix-map={}=.", bpf.display());
    // Without PWD clang asks the kernel where it is, and cannot be told of a path through a symbolic link.
    let mut clang = Command::new(CLANG);
    clang.current_dir(bpf).env_remove("PWD").args(FLAGS).args([&prefix, "-c", source, "-o"]).arg(object);
    let status = clang.status().with_context(|| format!("run {CLANG}"))?;
    ensure!(status.success(), "{CLANG} does not compile bpf/{source}");
    let status =
        Command::new(STRIP).arg("-g").arg(object).status().with_context(|| format!("run {STRIP}"))?;
    ensure!(status.success(), "{STRIP} failed on bpf/{source}");
    Ok(())
}

/// The content of `SOURCES.sha256`: paths relative to `bpf/`.
fn list(bpf: &Path, sources: &[PathBuf], objects: &[PathBuf], version: &str) -> Result<String> {
    let mut text = format!("# Written by `cargo xtask bpf`. {version}\n");
    for path in sources {
        let name = path.strip_prefix(bpf).context("a source lies under bpf/")?;
        text.push_str(&format!("{}  {}\n", hash(path)?, name.display()));
    }
    for path in objects {
        let name = path.file_name().context("an object has a name")?;
        text.push_str(&format!("{}  objects/{}\n", hash(path)?, name.to_string_lossy()));
    }
    Ok(text)
}

fn hash(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn install(folder: &Path, objects: &[PathBuf], list: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for old in files(folder, ".o")? {
        fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
    }
    for object in objects {
        let place = folder.join(object.file_name().context("an object has a name")?);
        fs::copy(object, &place).with_context(|| format!("write {}", place.display()))?;
    }
    fs::write(folder.join(SOURCES), list).with_context(|| format!("write {SOURCES}"))
}

fn compare(folder: &Path, objects: &[PathBuf], list: &str) -> Result<()> {
    let names = |paths: &[PathBuf]| {
        let mut names: Vec<_> =
            paths.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect();
        names.sort();
        names
    };
    let checked_in = files(folder, ".o")?;
    ensure!(
        names(&checked_in) == names(objects),
        "bpf/objects/ holds other objects than bpf/ makes: run `cargo xtask bpf`"
    );
    for object in objects {
        let name = object.file_name().context("an object has a name")?;
        if fs::read(object)? != fs::read(folder.join(name))? {
            bail!(
                "bpf/objects/{} is not what its source compiles to: run `cargo xtask bpf`",
                name.to_string_lossy()
            );
        }
    }
    ensure!(
        fs::read_to_string(folder.join(SOURCES)).unwrap_or_default() == list,
        "bpf/objects/{SOURCES} is stale: run `cargo xtask bpf` with the compiler it names"
    );
    Ok(())
}
