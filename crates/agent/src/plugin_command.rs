//! `watchfire-agent plugin`: keys, signatures, and a look at what would be run.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use watchfire_event::printable;
use watchfire_plugin::{MANIFEST_SUFFIX, Manifest, Package, SIGNATURE_SUFFIX, SecretKey, TrustedKey, digest};

/// What can be done about plug-ins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a key that signs manifests, and print the public one, for the setting `plugins.keys`.
    Keygen {
        /// Where the secret key goes; a file that is there is not replaced.
        secret: PathBuf,
    },
    /// Write and sign the manifest of an executable, beside it.
    Sign(SignArgs),
    /// Check a plug-in as the agent does before it runs it.
    Check {
        /// Its manifest.
        manifest: PathBuf,
        /// The public keys that are believed.
        #[arg(long = "key", value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
}

/// Arguments of `plugin sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The secret key's file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The plug-in's name.
    #[arg(long)]
    name: String,
    /// The plug-in's version.
    #[arg(long, value_name = "VERSION")]
    plugin_version: String,
    /// What it may read besides programs and libraries.
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// It may open network sockets.
    #[arg(long)]
    network: bool,
    /// The executable.
    executable: PathBuf,
    /// Its arguments.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl PluginCommand {
    pub(crate) fn execute(&self) -> Result<()> {
        match self {
            PluginCommand::Keygen { secret } => keygen(secret),
            PluginCommand::Sign(args) => sign(args),
            PluginCommand::Check { manifest, keys } => check(manifest, keys),
        }
    }
}

fn keygen(path: &Path) -> Result<()> {
    let secret = SecretKey::generate()?;
    // A key that others depend on is never overwritten.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("make {}", path.display()))?;
    writeln!(file, "{}", secret.reveal()).and_then(|()| file.sync_all()).context("write the secret key")?;
    print(&secret.public().to_string())
}

fn sign(args: &SignArgs) -> Result<()> {
    let mut text = String::new();
    let file = File::open(&args.key).with_context(|| format!("open {}", args.key.display()))?;
    file.take(1024).read_to_string(&mut text).context("read the secret key")?;
    let secret: SecretKey = text.parse().with_context(|| format!("{}: no secret key", args.key.display()))?;
    let executable =
        File::open(&args.executable).with_context(|| format!("open {}", args.executable.display()))?;
    let bytes = digest(&executable, &args.executable)?;
    let name = args
        .executable
        .file_name()
        .and_then(|name| name.to_str())
        .context("the executable's name is no text")?;
    let manifest = Manifest {
        name: args.name.clone(),
        version: args.plugin_version.clone(),
        executable: name.to_owned(),
        sha256: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        arguments: args.arguments.clone(),
        read: args.read.clone(),
        network: args.network,
    };
    let bytes = serde_json::to_vec_pretty(&manifest).context("write JSON")?;
    // What the agent would refuse is not signed.
    Manifest::parse(&bytes)?;
    let beside = |suffix| args.executable.with_file_name(format!("{}{suffix}", args.name));
    let (path, signature) = (beside(MANIFEST_SUFFIX), beside(SIGNATURE_SUFFIX));
    std::fs::write(&signature, format!("{}\n", secret.sign(&bytes)))
        .with_context(|| format!("write {}", signature.display()))?;
    std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    print(&path.display().to_string())
}

fn check(manifest: &Path, keys: &[String]) -> Result<()> {
    let trusted: Vec<TrustedKey> = keys
        .iter()
        .map(|key| key.parse().with_context(|| format!("{:?}: no public key", printable(key.as_bytes()))))
        .collect::<Result<_>>()?;
    let package = Package::open(manifest, &trusted)?;
    let expected = format!("{}{MANIFEST_SUFFIX}", package.manifest.name);
    ensure!(
        manifest.file_name().is_some_and(|name| name == &*expected),
        "its file must be called {expected}"
    );
    print(&serde_json::to_string_pretty(&package.manifest).context("write JSON")?)
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("write to standard output")
}
