//! The bytes a fanotify group gives: metadata, then info records that say which directory and name it was.

/// A file handle: names an object of a file system for as long as it exists, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Handle {
    pub(super) fsid: [u8; 8],
    pub(super) kind: i32,
    pub(super) bytes: Box<[u8]>,
}

/// A directory and a name in it. The name is `.` when the directory itself is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) dir: Handle,
    pub(super) name: Vec<u8>,
}

/// One event of the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// `FAN_*` bits; the kernel merges what one process did to one object.
    pub(super) mask: u64,
    /// Thread group id of who did it, in the reader's pid namespace; 0 when it lies outside.
    pub(super) tgid: u32,
    /// Number of a descriptor of the process, to be closed by whoever reads this.
    pub(super) pidfd: Option<i32>,
    /// Where.
    pub(super) entry: Option<Entry>,
    /// Old and new place of a rename; one is missing when only the other directory is watched.
    pub(super) from: Option<Entry>,
    pub(super) to: Option<Entry>,
    /// The object itself.
    pub(super) object: Option<Handle>,
}

const METADATA: usize = 24;
const HEADER: usize = 4;
/// fsid, then `handle_bytes` and `handle_type`.
const FID: usize = 16;
/// Event descriptor that is none.
const NO_FD: i32 = -1;

/// What a buffer holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) records: Vec<Record>,
    /// Events whose bytes made no sense; the rest of a buffer behind a broken length counts as one.
    pub(super) malformed: u64,
}

/// Reads a buffer as read(2) filled it.
pub(super) fn parse(mut bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    while !bytes.is_empty() {
        let length = number(bytes, 0).and_then(|length| usize::try_from(u32::from_ne_bytes(length)).ok());
        let Some(event) = length.filter(|length| *length >= METADATA).and_then(|length| bytes.get(..length))
        else {
            parsed.malformed += 1;
            break;
        };
        match record(event) {
            Some(record) => parsed.records.push(record),
            None => parsed.malformed += 1,
        }
        bytes = &bytes[event.len()..];
    }
    parsed
}

fn record(event: &[u8]) -> Option<Record> {
    let version = *event.get(4)?;
    let start = usize::from(u16::from_ne_bytes(number(event, 6)?));
    if version != libc::FANOTIFY_METADATA_VERSION || start < METADATA {
        return None;
    }
    let mut record = Record {
        mask: u64::from_ne_bytes(number(event, 8)?),
        tgid: u32::try_from(i32::from_ne_bytes(number(event, 20)?)).unwrap_or(0),
        ..Record::default()
    };
    // Groups that report handles carry no descriptor of the object.
    if i32::from_ne_bytes(number(event, 16)?) != NO_FD {
        return None;
    }
    let mut infos = event.get(start..)?;
    while !infos.is_empty() {
        let length = usize::from(u16::from_ne_bytes(number(infos, 2)?));
        let info = infos.get(..length).filter(|info| info.len() >= HEADER)?;
        add(&mut record, info[0], &info[HEADER..])?;
        infos = &infos[length..];
    }
    Some(record)
}

/// Adds one info record; kinds not known here are passed over.
fn add(record: &mut Record, kind: u8, body: &[u8]) -> Option<()> {
    match kind {
        libc::FAN_EVENT_INFO_TYPE_FID => record.object = Some(handle(body)?.0),
        libc::FAN_EVENT_INFO_TYPE_DFID_NAME => record.entry = Some(entry(body)?),
        libc::FAN_EVENT_INFO_TYPE_DFID => {
            record.entry = Some(Entry { dir: handle(body)?.0, name: b".".to_vec() });
        }
        libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => record.from = Some(entry(body)?),
        libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => record.to = Some(entry(body)?),
        libc::FAN_EVENT_INFO_TYPE_PIDFD => record.pidfd = Some(i32::from_ne_bytes(number(body, 0)?)),
        _ => {}
    }
    Some(())
}

fn entry(body: &[u8]) -> Option<Entry> {
    let (dir, rest) = handle(body)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(Entry { dir, name: rest[..end].to_vec() })
}

fn handle(body: &[u8]) -> Option<(Handle, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(number(body, 8)?)).ok()?;
    let end = FID.checked_add(length)?;
    let bytes = body.get(FID..end)?;
    let kind = i32::from_ne_bytes(number(body, 12)?);
    Some((Handle { fsid: number(body, 0)?, kind, bytes: bytes.into() }, &body[end..]))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(HEADER + body.len()).unwrap();
        [&[kind, 0][..], &length.to_ne_bytes(), body].concat()
    }

    fn fid(number: u8, name: &[u8]) -> Vec<u8> {
        [&[9u8; 8][..], &2u32.to_ne_bytes(), &1i32.to_ne_bytes(), &[number, number], name].concat()
    }

    fn event(mask: u64, tgid: i32, infos: &[u8]) -> Vec<u8> {
        let length = u32::try_from(METADATA + infos.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
        bytes.extend(24u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(NO_FD.to_ne_bytes());
        bytes.extend(tgid.to_ne_bytes());
        bytes.extend(infos);
        bytes
    }

    fn handle(number: u8) -> Handle {
        Handle { fsid: [9; 8], kind: 1, bytes: [number, number].into() }
    }

    fn sample() -> Vec<u8> {
        let rename = [
            info(libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &fid(1, b"old\0\0\0")),
            info(libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &fid(2, b"new\n\xff\0")),
            info(libc::FAN_EVENT_INFO_TYPE_FID, &fid(3, b"")),
            info(libc::FAN_EVENT_INFO_TYPE_PIDFD, &17i32.to_ne_bytes()),
            info(200, b"unknown"),
        ];
        let create = info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &fid(1, b"x\0"));
        [event(libc::FAN_RENAME, 42, &rename.concat()), event(libc::FAN_CREATE, -1, &create)].concat()
    }

    #[test]
    fn a_rename_and_a_create_are_read() {
        let parsed = parse(&sample());
        assert_eq!(parsed.malformed, 0);
        let [rename, create] = &parsed.records[..] else { panic!("{parsed:?}") };
        assert_eq!(rename.from, Some(Entry { dir: handle(1), name: b"old".to_vec() }));
        assert_eq!(rename.to, Some(Entry { dir: handle(2), name: b"new\n\xff".to_vec() }));
        assert_eq!((rename.object.clone(), rename.pidfd, rename.tgid), (Some(handle(3)), Some(17), 42));
        assert_eq!(create.entry, Some(Entry { dir: handle(1), name: b"x".to_vec() }));
        assert_eq!((create.tgid, create.pidfd), (0, None));
    }

    #[test]
    fn a_cut_event_is_counted_and_those_before_it_kept() {
        let bytes = sample();
        let parsed = parse(&bytes[..bytes.len() - 1]);
        assert_eq!((parsed.records.len(), parsed.malformed), (1, 1));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let parsed = parse(&bytes);
            prop_assert!(parsed.records.len() <= bytes.len() / METADATA);
        }

        #[test]
        fn no_mutation_of_real_events_panics(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
            let mut bytes = sample();
            let length = bytes.len();
            for (at, byte) in changes {
                bytes[at % length] = byte;
            }
            let _seen = parse(&bytes);
        }
    }
}
