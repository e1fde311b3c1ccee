//! Properties of the decoder: what was written is read, and no bytes make it panic or take more memory than they have.

use std::mem::offset_of;

use proptest::prelude::*;
use watchfire_event::{Body, Kind, ProcessKey, Stdio, What};

use crate::layout::{ABI_VERSION, EventExec, EventFork, EventHeader, EventMount, EventStdio};
use crate::{DecodeError, RECORD_MAX, decode, kind_of};

/// The fixed sizes of all kinds, to aim mutations at.
const KINDS: [(Kind, usize); 14] = [
    (Kind::Exec, 288),
    (Kind::Fork, 40),
    (Kind::Exit, 32),
    (Kind::Connect, 72),
    (Kind::Accept, 72),
    (Kind::Listen, 72),
    (Kind::UdpSend, 72),
    (Kind::Credentials, 104),
    (Kind::Ptrace, 40),
    (Kind::Memfd, 32),
    (Kind::ModuleLoad, 40),
    (Kind::BpfLoad, 48),
    (Kind::Mount, 48),
    (Kind::Namespace, 40),
];

fn put(record: &mut [u8], offset: usize, bytes: &[u8]) {
    record[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Writes a header that fits the record.
fn seal(record: &mut [u8], kind: u8) {
    let size = u16::try_from(record.len()).unwrap();
    put(record, offset_of!(EventHeader, size), &size.to_ne_bytes());
    put(record, offset_of!(EventHeader, kind), &[kind]);
    put(record, offset_of!(EventHeader, version), &[ABI_VERSION]);
}

/// Appends strings and writes their sizes at the given offsets.
fn append(record: &mut Vec<u8>, strings: &[(usize, &[u8])]) {
    for (offset, string) in strings {
        put(record, *offset, &u16::try_from(string.len()).unwrap().to_ne_bytes());
        record.extend_from_slice(string);
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8.., 0..300)
}

proptest! {
    #[test]
    fn an_exec_reads_as_it_was_written(
        started: u64, tgid in 1u32.., parent in 1u32.., inode: u64,
        filename in text(), cwd in prop::collection::vec("[^/\0]{1,12}", 0..9), argv in prop::collection::vec(text(), 1..9),
    ) {
        let mut record = vec![0; size_of::<EventExec>()];
        put(&mut record, offset_of!(EventHeader, started), &started.to_ne_bytes());
        put(&mut record, offset_of!(EventHeader, tgid), &tgid.to_ne_bytes());
        put(&mut record, offset_of!(EventExec, parent_tgid), &parent.to_ne_bytes());
        let stdin = offset_of!(EventExec, stdio);
        put(&mut record, stdin + offset_of!(EventStdio, inode), &inode.to_ne_bytes());
        put(&mut record, stdin + offset_of!(EventStdio, what), &[5]);
        let told_cwd: Vec<u8> = cwd.iter().rev().flat_map(|part| [part.as_bytes(), b"\0"].concat()).collect();
        let told_argv: Vec<u8> = argv.iter().flat_map(|arg| [arg.as_slice(), b"\0"].concat()).collect();
        append(&mut record, &[
            (offset_of!(EventExec, filename_size), &[filename.as_slice(), b"\0"].concat()),
            (offset_of!(EventExec, exe_size), b"sh\0bin\0"),
            (offset_of!(EventExec, cwd_size), &told_cwd),
            (offset_of!(EventExec, tty_size), b""),
            (offset_of!(EventExec, argv_size), &told_argv),
        ]);
        seal(&mut record, 1);
        let sighting = decode(&record).unwrap();
        prop_assert_eq!(sighting.kind(), Kind::Exec);
        let What::Exec(process) = sighting.what else { panic!("an exec") };
        prop_assert_eq!(process.key, ProcessKey { tgid, started: watchfire_event::BootNanos(started) });
        prop_assert_eq!(process.parent.unwrap().tgid, parent);
        prop_assert_eq!(&process.filename, &filename);
        prop_assert_eq!(process.exe.as_slice(), b"/bin/sh");
        prop_assert_eq!(process.cwd.clone(), format!("/{}", cwd.join("/")).into_bytes());
        prop_assert!(process.args().eq(argv.iter().map(Vec::as_slice)));
        prop_assert_eq!(process.stdio, [Stdio::Pipe(inode), Stdio::Unknown, Stdio::Unknown]);
        prop_assert!(process.tty.is_none());
    }

    #[test]
    fn a_mount_reads_as_it_was_written(source in text(), target in text(), fstype in text(), flags: u64, result: i32) {
        let mut record = vec![0; size_of::<EventMount>()];
        put(&mut record, offset_of!(EventMount, flags), &flags.to_ne_bytes());
        put(&mut record, offset_of!(EventMount, result), &result.to_ne_bytes());
        put(&mut record, offset_of!(EventMount, call), &[1]);
        let sizes = [offset_of!(EventMount, source_size), offset_of!(EventMount, target_size), offset_of!(EventMount, fstype_size)];
        append(&mut record, &[(sizes[0], &source), (sizes[1], &target), (sizes[2], &fstype)]);
        seal(&mut record, 20);
        let What::Done(Body::Mount(mount)) = decode(&record).unwrap().what else { panic!("a mount") };
        prop_assert_eq!((mount.call, mount.flags, mount.result), ("mount", flags, result));
        prop_assert_eq!((mount.source, mount.target, mount.fstype), (source, target, fstype));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        drop(decode(&bytes));
        prop_assert!(kind_of(&bytes).is_none_or(|kind| bytes[22] == kind as u8));
    }

    #[test]
    fn random_content_behind_a_fitting_header_never_panics(
        kind in 0u8..=32, mut bytes in prop::collection::vec(any::<u8>(), 24..1024),
    ) {
        seal(&mut bytes, kind);
        match decode(&bytes) {
            Ok(sighting) => prop_assert_eq!(sighting.kind() as u8, kind),
            Err(DecodeError::Size { .. } | DecodeError::Version(_)) => prop_assert!(false, "the header fits"),
            Err(_) => {}
        }
    }

    #[test]
    fn a_mutated_record_never_panics_and_allocates_no_more_than_it_has(
        which in 0usize..KINDS.len(), extra in 0usize..200, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
    ) {
        let (kind, fixed) = KINDS[which];
        let mut record = vec![0; fixed + extra];
        seal(&mut record, kind as u8);
        for (index, byte) in changes {
            let at = index.index(record.len());
            record[at] = byte;
        }
        if let Ok(sighting) = decode(&record)
            && let What::Exec(process) = sighting.what
        {
            let taken = process.argv.len() + process.exe.len() + process.cwd.len() + process.filename.len();
            prop_assert!(taken <= record.len() + 8);
        }
    }
}

#[test]
fn every_kind_the_kernel_side_writes_is_decoded() {
    for (kind, fixed) in KINDS {
        let mut record = vec![0; fixed];
        seal(&mut record, kind as u8);
        let expected = match decode(&record) {
            Ok(sighting) => sighting.kind() == kind,
            // All zeros are no call, no transport, no family.
            Err(DecodeError::Number { .. }) => true,
            Err(other) => panic!("{kind:?}: {other}"),
        };
        assert!(expected, "{kind:?}");
        record.pop();
        assert!(matches!(decode(&record), Err(DecodeError::Size { .. })), "{kind:?} one byte short");
        seal(&mut record, kind as u8);
        assert!(
            matches!(decode(&record), Err(DecodeError::Short { .. })),
            "{kind:?} one byte short and sealed"
        );
    }
}

#[test]
fn another_version_and_left_over_bytes_are_refused() {
    let mut record = vec![0; size_of::<EventFork>()];
    seal(&mut record, 2);
    assert!(decode(&record).is_ok());
    record[offset_of!(EventHeader, version)] = ABI_VERSION + 1;
    assert_eq!(decode(&record), Err(DecodeError::Version(ABI_VERSION + 1)));
    let mut long = vec![0; size_of::<EventFork>() + 1];
    seal(&mut long, 2);
    assert_eq!(decode(&long), Err(DecodeError::Strings { told: 0, left: 1 }));
}

#[test]
fn the_longest_record_fits_its_size_field() {
    assert!(u16::try_from(RECORD_MAX).is_ok());
}
