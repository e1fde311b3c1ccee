//! The text of audit records: `audit(SECONDS.MILLIS:SERIAL): key=value key=value …`.
//!
//! A value that an attacker chose is either in quotes and then holds no blank, quote or control character, or it is
//! hexadecimal: so a record splits at its blanks.

/// The part of an argument area that is kept.
const MAX_ARGV: usize = 32 * 1024;
/// Longest path and name kept.
const MAX_NAME: usize = 4096;
/// "No one" in the kernel.
const UNSET: u32 = u32::MAX;

pub(super) const SYSCALL: u16 = 1300;
pub(super) const PATH: u16 = 1302;
pub(super) const CWD: u16 = 1307;
pub(super) const EXECVE: u16 = 1309;
pub(super) const END: u16 = 1320;

/// Which event a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    pub(super) serial: u64,
    /// Wall time.
    pub(super) millis: u64,
}

/// An exec, as far as its records have come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Exec {
    pub(super) millis: u64,
    pub(super) call: Option<Call>,
    pub(super) arguments: Option<Arguments>,
    pub(super) cwd: Vec<u8>,
    /// The file that was asked for: for a script the script.
    pub(super) file: Option<FileNamed>,
}

/// The `SYSCALL` record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Call {
    pub(super) succeeded: bool,
    pub(super) tgid: u32,
    pub(super) parent: u32,
    pub(super) uid: u32,
    pub(super) euid: u32,
    pub(super) suid: u32,
    pub(super) gid: u32,
    pub(super) egid: u32,
    pub(super) login_uid: Option<u32>,
    pub(super) session: Option<u32>,
    pub(super) tty: Vec<u8>,
    pub(super) comm: Vec<u8>,
    pub(super) exe: Vec<u8>,
}

/// The `PATH` record of item 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FileNamed {
    pub(super) name: Vec<u8>,
    pub(super) inode: u64,
    pub(super) device: (u32, u32),
    pub(super) mode: u32,
    pub(super) owner: u32,
}

/// What the `EXECVE` records hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Arguments {
    /// Each ended by NUL, cut at 32 KiB.
    pub(super) bytes: Vec<u8>,
    /// Length of all of them.
    pub(super) length: u64,
    /// An argument that comes in pieces, by its number.
    open: Option<u32>,
}

/// Splits a record into its stamp and its fields.
pub(super) fn stamp(text: &[u8]) -> Option<(Stamp, &[u8])> {
    let rest = text.strip_prefix(b"audit(")?;
    let end = rest.windows(2).position(|window| window == b"):")?;
    let inner = std::str::from_utf8(&rest[..end]).ok()?;
    let (time, serial) = inner.split_once(':')?;
    let (seconds, millis) = time.split_once('.')?;
    let millis = seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis.parse().ok()?)?;
    Some((Stamp { serial: serial.parse().ok()?, millis }, rest[end + 2..].trim_ascii()))
}

impl Exec {
    /// Adds one record's fields; `false` for a record that says nothing of an exec.
    pub(super) fn add(&mut self, kind: u16, fields: &[u8]) -> bool {
        match kind {
            SYSCALL => self.call = Some(call(fields)),
            EXECVE => self.arguments.get_or_insert_default().add(fields),
            CWD => self.cwd = field(fields, b"cwd").unwrap_or_default(),
            PATH if raw_field(fields, b"item") == Some(b"0") => self.file = Some(file(fields)),
            PATH => {}
            _ => return false,
        }
        true
    }
}

impl Arguments {
    fn add(&mut self, fields: &[u8]) {
        for (key, value) in pairs(fields) {
            // `a0`, `a0[1]`; `a0_len` and `argc` only announce what is counted here.
            let Some(rest) = key.strip_prefix(b"a") else { continue };
            let (number, piece) = match rest.iter().position(|byte| *byte == b'[') {
                Some(open) => (&rest[..open], true),
                None => (rest, false),
            };
            let Some(number) = decimal::<u32>(number) else { continue };
            if self.open != Some(number) {
                self.close();
            }
            self.push(value);
            self.open = Some(number);
            if !piece {
                self.close();
            }
        }
    }

    /// Ends the argument that is being put together.
    pub(super) fn close(&mut self) {
        if self.open.take().is_some() {
            self.length += 1;
            if self.bytes.len() < MAX_ARGV {
                self.bytes.push(0);
            }
        }
    }

    fn push(&mut self, value: &[u8]) {
        let room = MAX_ARGV - self.bytes.len().min(MAX_ARGV);
        let quoted = value.first() == Some(&b'"');
        let length = if quoted { value.len().saturating_sub(2) } else { value.len() / 2 };
        // Two digits for each byte that still has room, no more is decoded.
        let part = if quoted { value } else { &value[..value.len().min(room * 2)] };
        let plain = plain(part);
        let kept = &plain[..plain.len().min(room)];
        // A value whose second quote is missing is one longer than it looks.
        self.length += length.max(kept.len()) as u64;
        self.bytes.extend_from_slice(kept);
    }
}

fn call(fields: &[u8]) -> Call {
    let id = |key: &[u8]| raw_field(fields, key).and_then(decimal::<u32>);
    let set = |key: &[u8]| id(key).filter(|value| *value != UNSET);
    Call {
        succeeded: raw_field(fields, b"success") == Some(b"yes"),
        tgid: id(b"pid").unwrap_or(0),
        parent: id(b"ppid").unwrap_or(0),
        uid: id(b"uid").unwrap_or(0),
        euid: id(b"euid").unwrap_or(0),
        suid: id(b"suid").unwrap_or(0),
        gid: id(b"gid").unwrap_or(0),
        egid: id(b"egid").unwrap_or(0),
        login_uid: set(b"auid"),
        session: set(b"ses"),
        tty: raw_field(fields, b"tty").filter(|tty| *tty != b"(none)").unwrap_or_default().to_vec(),
        comm: field(fields, b"comm").unwrap_or_default(),
        exe: field(fields, b"exe").unwrap_or_default(),
    }
}

fn file(fields: &[u8]) -> FileNamed {
    let radix = |key: &[u8], radix| {
        let text = std::str::from_utf8(raw_field(fields, key)?).ok()?;
        u32::from_str_radix(text, radix).ok()
    };
    let device = raw_field(fields, b"dev").and_then(|text| {
        let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
    });
    FileNamed {
        name: field(fields, b"name").unwrap_or_default(),
        inode: raw_field(fields, b"inode").and_then(decimal::<u64>).unwrap_or(0),
        device: device.unwrap_or_default(),
        mode: radix(b"mode", 8).unwrap_or(0),
        owner: radix(b"ouid", 10).unwrap_or(0),
    }
}

fn pairs(fields: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let words = fields.split(|byte| matches!(byte, b' ' | b'\n' | 0));
    words.filter_map(|word| {
        let equals = word.iter().position(|byte| *byte == b'=')?;
        Some((&word[..equals], &word[equals + 1..]))
    })
}

fn raw_field<'a>(fields: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    pairs(fields).find(|(key, _)| *key == wanted).map(|(_, value)| value)
}

fn field(fields: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    raw_field(fields, wanted).map(|value| {
        let mut plain = plain(value);
        plain.truncate(MAX_NAME);
        plain
    })
}

/// A value as its bytes were: out of its quotes, or out of hexadecimal. `(null)` and its like are empty.
fn plain(value: &[u8]) -> Vec<u8> {
    if let Some(inner) = value.strip_prefix(b"\"") {
        return inner.strip_suffix(b"\"").unwrap_or(inner).to_vec();
    }
    let digits = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    value.chunks_exact(2).map(digits).collect::<Option<Vec<u8>>>().unwrap_or_default()
}

fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: &[u8] = b"audit(1795222530.250:4711): arch=c000003e syscall=59 success=yes exit=0 a0=55 a1=56 a2=57 a3=8 \
        items=2 ppid=10 pid=11 auid=1000 uid=1000 gid=1001 euid=0 suid=0 fsuid=0 egid=1002 sgid=0 fsgid=0 tty=pts0 ses=3 \
        comm=\"sh\" exe=2F746D702F6120622028 key=\"watchfire\"";

    #[test]
    fn the_records_of_an_exec_come_together() {
        let mut exec = Exec::default();
        let (stamp, fields) = stamp(CALL).unwrap();
        assert_eq!(stamp, Stamp { serial: 4711, millis: 1_795_222_530_250 });
        assert!(exec.add(SYSCALL, fields));
        assert!(exec.add(EXECVE, b"argc=3 a0=\"sh\" a1=2D63 a2=\"\""));
        assert!(exec.add(CWD, b"cwd=\"/root\""));
        assert!(exec.add(
            PATH,
            b"item=0 name=\"./x\" inode=12 dev=fe:0a mode=0104755 ouid=7 ogid=0 rdev=00:00 nametype=NORMAL"
        ));
        assert!(exec.add(PATH, b"item=1 name=\"/lib64/ld.so\" inode=99"));
        assert!(!exec.add(1327, b"proctitle=7368"));
        let call = exec.call.unwrap();
        assert_eq!(
            (call.tgid, call.parent, call.uid, call.euid, call.gid, call.egid),
            (11, 10, 1000, 0, 1001, 1002)
        );
        assert_eq!((call.login_uid, call.session, call.tty.as_slice()), (Some(1000), Some(3), &b"pts0"[..]));
        assert_eq!(
            (call.comm.as_slice(), call.exe.as_slice(), call.succeeded),
            (&b"sh"[..], &b"/tmp/a b ("[..], true)
        );
        let arguments = exec.arguments.unwrap();
        assert_eq!((arguments.bytes.as_slice(), arguments.length), (&b"sh\0-c\0\0"[..], 7));
        let file = exec.file.unwrap();
        assert_eq!(
            (file.name.as_slice(), file.inode, file.device, file.mode, file.owner),
            (&b"./x"[..], 12, (0xfe, 10), 0o104_755, 7)
        );
    }

    #[test]
    fn an_argument_in_pieces_over_several_records_is_one() {
        let mut arguments = Arguments::default();
        arguments.add(b"argc=3 a0=\"x\" a1_len=8 a1[0]=\"ab\" a1[1]=6364");
        arguments.add(b" a1[2]=\"ef\"");
        arguments.add(b" a1[3]=\"gh\" a2=\"y\"");
        arguments.close();
        assert_eq!((arguments.bytes.as_slice(), arguments.length), (&b"x\0abcdefgh\0y\0"[..], 13));
        let mut last = Arguments::default();
        last.add(b"argc=1 a0_len=4 a0[0]=\"ab\" a0[1]=\"cd\"");
        last.close();
        assert_eq!((last.bytes.as_slice(), last.length), (&b"abcd\0"[..], 5));
    }

    #[test]
    fn an_argument_area_over_32_kib_is_cut_and_measured() {
        let mut arguments = Arguments::default();
        for piece in 0..10 {
            arguments.add(format!("a0[{piece}]={}", "61".repeat(5000)).as_bytes());
        }
        arguments.close();
        assert_eq!((arguments.bytes.len(), arguments.length), (MAX_ARGV, 50_001));
    }

    #[test]
    fn never_more_is_kept_than_is_counted() {
        let mut arguments = Arguments::default();
        arguments.add(b"a0=\"x a1=\" a2=xy");
        arguments.close();
        assert_eq!((arguments.bytes.as_slice(), arguments.length), (&b"x\0\0\0"[..], 5));
    }

    #[test]
    fn unset_ids_are_none() {
        let call = call(b"auid=4294967295 ses=4294967295 tty=(none) success=no comm=(null)");
        assert_eq!(
            (call.login_uid, call.session, call.tty.len(), call.succeeded, call.comm.len()),
            (None, None, 0, false, 0)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 1299u16..1330) {
            let _seen = stamp(&bytes);
            let mut exec = Exec::default();
            exec.add(kind, &bytes);
            exec.add(EXECVE, &bytes);
            prop_assert!(exec.arguments.unwrap().bytes.len() <= bytes.len());
        }

        #[test]
        fn no_mutation_of_a_real_record_panics(at in any::<usize>(), byte in any::<u8>(), kind in 1299u16..1330) {
            let mut bytes = CALL.to_vec();
            let length = bytes.len();
            bytes[at % length] = byte;
            if let Some((_, fields)) = stamp(&bytes) {
                Exec::default().add(kind, fields);
            }
        }

        #[test]
        fn arguments_read_back_as_the_kernel_writes_them(
            args in proptest::collection::vec(proptest::collection::vec(1u8..=255, 0..40), 1..8), piece in 1usize..10,
        ) {
            let encode = |bytes: &[u8]| {
                // `audit_string_contains_control`.
                if bytes.iter().any(|byte| *byte == b'"' || *byte < 0x21 || *byte > 0x7e) {
                    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>()
                } else {
                    format!("\"{}\"", String::from_utf8(bytes.to_vec()).unwrap())
                }
            };
            let mut arguments = Arguments::default();
            for (number, arg) in args.iter().enumerate() {
                if arg.len() > piece * 2 {
                    for (index, part) in arg.chunks(piece).enumerate() {
                        arguments.add(format!(" a{number}[{index}]={}", encode(part)).as_bytes());
                    }
                } else {
                    arguments.add(format!(" a{number}={}", encode(arg)).as_bytes());
                }
            }
            arguments.close();
            let expected: Vec<u8> = args.iter().flat_map(|arg| [arg.as_slice(), b"\0"].concat()).collect();
            prop_assert_eq!(arguments.length, expected.len() as u64);
            prop_assert_eq!(arguments.bytes, expected);
        }
    }
}
