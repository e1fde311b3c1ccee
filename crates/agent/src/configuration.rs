//! The settings in force: from the file, from what was applied while the agent ran, and from what was good last time.
//!
//! defaults ← the file (`--config`) ← documents applied at the control socket. Whatever is refused changes nothing. What is in force is
//! kept in the state directory, and serves at a start at which the file is not good.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::{error, info, warn};

use crate::catalog::Catalog;
use crate::settings::{self, AgentSettings, SettingsError};

/// The file in the state directory.
const KEPT: &str = "settings";
/// Its first words. The number rises when a later agent could not read an earlier one's file.
const MAGIC: &str = "watchfire settings 1";
/// Longest file read, in bytes.
const MAX_KEPT: u64 = 16 << 20;

/// See the module's documentation.
pub(crate) struct Configuration {
    catalog: Catalog,
    file: Option<PathBuf>,
    kept: PathBuf,
    /// What the file said when it was last good.
    from_file: Value,
    applied: Value,
    revision: u64,
    origin: Origin,
    settings: AgentSettings,
}

/// Where the settings in force come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The file, or the defaults where there is none, and what was applied.
    Present,
    /// An earlier life of the agent: the file is not good.
    Kept,
}

/// What is kept on the disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    revision: u64,
    from_file: Value,
    applied: Value,
}

/// Why the kept settings were not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error("{}: {attempt}", path.display())]
    Io { path: PathBuf, attempt: &'static str, source: io::Error },
    #[error("{}: damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
}

impl Configuration {
    /// Reads the file and what was kept.
    ///
    /// # Errors
    /// The file is not good, and nothing good was kept.
    pub(crate) fn open(
        state_dir: &Path,
        file: Option<PathBuf>,
        catalog: Catalog,
    ) -> Result<Self, SettingsError> {
        let path = state_dir.join(KEPT);
        let kept = match read_kept(&path) {
            Ok(kept) => kept,
            Err(error) => {
                error!(error = format!("{:#}", anyhow::Error::from(error)), "the kept settings are not used");
                None
            }
        };
        let (revision, applied) =
            kept.as_ref().map_or((0, empty()), |kept| (kept.revision, kept.applied.clone()));
        let present = settings::read(file.as_deref()).and_then(|from_file| {
            let settings = AgentSettings::check(&merged(&from_file, &applied), &catalog)?;
            Ok((from_file, settings))
        });
        let (origin, from_file, settings) = match (present, kept) {
            (Ok((from_file, settings)), _) => (Origin::Present, from_file, settings),
            (Err(error), None) => return Err(settings::in_file(file.as_deref(), error)),
            (Err(error), Some(kept)) => {
                let settings = AgentSettings::check(&merged(&kept.from_file, &kept.applied), &catalog);
                // Of an agent of another version, say: then the file's fault is what an operator must hear.
                let Ok(settings) = settings else { return Err(settings::in_file(file.as_deref(), error)) };
                error!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    revision = kept.revision,
                    "settings refused; those of the agent's last life are used"
                );
                (Origin::Kept, kept.from_file, settings)
            }
        };
        let mut configuration =
            Configuration { catalog, file, kept: path, from_file, applied, revision, origin, settings };
        if revision == 0 {
            configuration.revision = 1;
            configuration.keep();
        }
        info!(revision = configuration.revision, "settings in force");
        Ok(configuration)
    }

    /// What is in force.
    pub(crate) fn settings(&self) -> &AgentSettings {
        &self.settings
    }

    /// Grows with every change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Reads the file again; whether that changed anything.
    ///
    /// # Errors
    /// The file is not good. What was in force stays so.
    pub(crate) fn reload(&mut self) -> Result<bool, SettingsError> {
        let from_file = settings::read(self.file.as_deref())?;
        let applied = self.applied.clone();
        let changed =
            self.take(from_file, applied).map_err(|error| settings::in_file(self.file.as_deref(), error))?;
        self.origin = Origin::Present;
        Ok(changed)
    }

    /// Applies documents, partial ones too, over what is in force; `null` for a key takes back what was applied for it before. Whether
    /// that changed anything.
    ///
    /// # Errors
    /// What they come to is not good. What was in force stays so.
    pub(crate) fn apply(&mut self, patch: &Value) -> Result<bool, SettingsError> {
        if !patch.is_object() {
            return Err(SettingsError::NoObject);
        }
        let mut applied = self.applied.clone();
        merge(&mut applied, patch);
        let from_file = self.from_file.clone();
        self.take(from_file, applied)
    }

    /// All there is to know, for people and programs.
    pub(crate) fn show(&self) -> Value {
        json!({
            "revision": self.revision,
            "origin": match self.origin {
                Origin::Present => "present",
                Origin::Kept => "kept from an earlier life: the file is not good",
            },
            "file": self.file,
            "from_file": self.from_file,
            "applied": self.applied,
            "in_force": self.settings.whole(),
        })
    }

    fn take(&mut self, from_file: Value, applied: Value) -> Result<bool, SettingsError> {
        let settings = AgentSettings::check(&merged(&from_file, &applied), &self.catalog)?;
        let changed = settings.whole() != self.settings.whole();
        if from_file == self.from_file && applied == self.applied && !changed {
            return Ok(false);
        }
        (self.from_file, self.applied) = (from_file, applied);
        if changed {
            self.settings = settings;
            self.revision += 1;
        }
        self.keep();
        Ok(changed)
    }

    /// A disk that does not take it is told, and costs no more than the memory of it at the next start.
    fn keep(&self) {
        let kept = Kept {
            revision: self.revision,
            from_file: self.from_file.clone(),
            applied: self.applied.clone(),
        };
        if let Err(error) = write_kept(&self.kept, &kept) {
            warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the settings in force are not kept on the disk"
            );
        }
    }
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn merged(from_file: &Value, applied: &Value) -> Value {
    let mut whole = from_file.clone();
    merge(&mut whole, applied);
    whole
}

/// Merges `patch` into `target` as RFC 7396 has it.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = empty();
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The line `MAGIC`, the checksum (CRC-32, hexadecimal) and length of what follows; then JSON.
fn encode_kept(kept: &Kept) -> Vec<u8> {
    let body = serde_json::to_vec(kept).expect("JSON values are JSON");
    let mut bytes = format!("{MAGIC} {:08x} {}\n", crc32fast::hash(&body), body.len()).into_bytes();
    bytes.extend(body);
    bytes
}

fn decode_kept(bytes: &[u8]) -> Result<Kept, String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("no first line")?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| "a first line that is no text")?;
    let figures = head.strip_prefix(MAGIC).ok_or("another first line")?;
    let mut figures = figures.split_whitespace();
    let (crc, length) = (figures.next(), figures.next());
    let crc = crc.and_then(|word| u32::from_str_radix(word, 16).ok()).ok_or("no checksum")?;
    let length: usize = length.and_then(|word| word.parse().ok()).ok_or("no length")?;
    if body.len() != length {
        return Err(format!("{} bytes instead of {length}", body.len()));
    }
    if crc32fast::hash(body) != crc {
        return Err("its checksum does not match".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn read_kept(path: &Path) -> Result<Option<Kept>, KeptError> {
    let failed = |attempt| move |source| KeptError::Io { path: path.into(), attempt, source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open")(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_KEPT).read_to_end(&mut bytes).map_err(failed("read"))?;
    decode_kept(&bytes).map(Some).map_err(|problem| KeptError::Damaged { path: path.into(), problem })
}

/// Writes beside it, syncs, renames: after a crash there is the old file or the new one.
fn write_kept(path: &Path, kept: &Kept) -> Result<(), KeptError> {
    let fresh = path.with_extension("new");
    let failed = |attempt| move |source| KeptError::Io { path: path.into(), attempt, source };
    let mut file = File::create(&fresh).map_err(failed("create beside"))?;
    file.write_all(&encode_kept(kept)).map_err(failed("write beside"))?;
    file.sync_all().map_err(failed("sync beside"))?;
    fs::rename(&fresh, path).map_err(failed("replace"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))
}

/// What a fuzzer feeds: bytes as kept on the disk, and as an operator's file.
pub fn read_untrusted(bytes: &[u8]) {
    let catalog = Catalog::standard();
    if let Ok(kept) = decode_kept(bytes) {
        // What was read is written the same again.
        assert_eq!(decode_kept(&encode_kept(&kept)).as_ref(), Ok(&kept));
        drop(AgentSettings::check(&merged(&kept.from_file, &kept.applied), &catalog));
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(documents) = settings::parse(&text)
        && let Ok(settings) = AgentSettings::check(&documents, &catalog)
    {
        // What is in force is a document that changes nothing.
        let again = AgentSettings::check(settings.whole(), &catalog);
        assert!(again.is_ok_and(|again| again.whole() == settings.whole()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ground {
        dir: tempfile::TempDir,
    }

    impl Ground {
        fn new() -> Self {
            Ground { dir: tempfile::tempdir().unwrap() }
        }

        fn file(&self) -> PathBuf {
            self.dir.path().join("agent.json")
        }

        fn write(&self, text: &str) {
            fs::write(self.file(), text).unwrap();
        }

        fn open(&self) -> Result<Configuration, String> {
            let file = self.file().exists().then(|| self.file());
            let opened = Configuration::open(self.dir.path(), file, Catalog::standard());
            opened.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
        }
    }

    fn backlog(configuration: &Configuration) -> u32 {
        configuration.settings().uplink.backlog_kib
    }

    #[test]
    fn applied_documents_go_over_the_file_survive_a_restart_and_are_taken_back_by_null() {
        let ground = Ground::new();
        ground.write(r#"{"uplink": {"backlog_kib": 1000}}"#);
        let mut configuration = ground.open().unwrap();
        assert_eq!((backlog(&configuration), configuration.revision()), (1000, 1));
        assert!(configuration.apply(&json!({"uplink": {"backlog_kib": 2000}})).unwrap());
        assert!(!configuration.apply(&json!({"uplink": {"backlog_kib": 2000}})).unwrap());
        let mut configuration = ground.open().unwrap();
        assert_eq!((backlog(&configuration), configuration.revision()), (2000, 2));
        assert!(configuration.apply(&json!({"uplink": null})).unwrap());
        assert_eq!((backlog(&configuration), configuration.revision()), (1000, 3));
    }

    #[test]
    fn what_is_refused_is_named_and_changes_nothing() {
        let ground = Ground::new();
        let mut configuration = ground.open().unwrap();
        let error = configuration.apply(&json!({"uplink": {"backlog_kib": 1}, "files": {"enabled": false}}));
        assert_eq!(
            error.unwrap_err().to_string(),
            "setting uplink.backlog_kib = 1: allowed is 256 to 1048576"
        );
        assert_eq!(configuration.revision(), 1);
        assert!(configuration.settings().document("files").unwrap().enabled);
        assert!(configuration.apply(&json!([])).is_err());
    }

    #[test]
    fn a_file_that_goes_bad_leaves_what_was_in_force_also_at_the_next_start() {
        let ground = Ground::new();
        ground.write(r#"{"uplink": {"backlog_kib": 1000}}"#);
        let mut configuration = ground.open().unwrap();
        ground.write(r#"{"uplink": {"backlog_kib": 1000"#);
        let error = format!("{:#}", anyhow::Error::from(configuration.reload().unwrap_err()));
        assert!(error.contains("agent.json"), "{error}");
        assert_eq!(backlog(&configuration), 1000);
        let mut configuration = ground.open().unwrap();
        assert_eq!(backlog(&configuration), 1000);
        assert!(configuration.show()["origin"].as_str().unwrap().contains("kept"));
        ground.write(r#"{"uplink": {"backlog_kib": 3000}}"#);
        assert!(configuration.reload().unwrap());
        assert_eq!((backlog(&configuration), &configuration.show()["origin"]), (3000, &json!("present")));
    }

    #[test]
    fn a_first_start_with_a_bad_file_is_refused() {
        let ground = Ground::new();
        ground.write(r#"{"uplinc": {}}"#);
        let error = ground.open().err().unwrap();
        assert!(error.contains("agent.json") && error.contains("uplinc"), "{error}");
    }

    #[test]
    fn a_kept_file_with_any_byte_changed_is_not_used() {
        let kept =
            Kept { revision: 7, from_file: json!({}), applied: json!({"uplink": {"backlog_kib": 999}}) };
        let whole = encode_kept(&kept);
        assert_eq!(decode_kept(&whole).unwrap(), kept);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x01;
            assert!(decode_kept(&bytes).is_err() || decode_kept(&bytes).unwrap() == kept, "byte {at}");
            assert!(decode_kept(&whole[..at]).is_err(), "cut at {at}");
        }
        let ground = Ground::new();
        fs::write(ground.dir.path().join(KEPT), b"garbage").unwrap();
        assert_eq!(ground.open().unwrap().revision(), 1);
    }

    #[test]
    fn merging_is_that_of_rfc_7396() {
        // From the RFC's appendix A.
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": "foo"}), json!({"b": {"bb": {"ccc": null}}}), json!({"a": "foo", "b": {"bb": {}}})),
        ];
        for (target, patch, result) in cases {
            let mut merged = target;
            merge(&mut merged, &patch);
            assert_eq!(merged, result);
        }
    }
}
