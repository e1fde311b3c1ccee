//! Reading a BPF ring buffer.
//!
//! Our own reader instead of aya's, for two reasons: it can count what is still in the ring by kind (so that the books
//! hold a measured number, not a difference), and it maps the data pages once instead of twice, which halves what the
//! ring adds to this process' memory; a record that wraps round the end is copied together.
//! Format: kernel/bpf/ringbuf.c. A record is a header of 8 bytes (length and two flag bits), then its data, padded to 8.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::sys::SharedPages;

const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER: usize = 8;
/// Read records are given back to the kernel in lots: each time costs a cache line that all CPUs write against.
const LOT: u64 = 64 << 10;

/// The consumer's end of one ring.
pub(super) struct Ring {
    consumer: SharedPages,
    producer: SharedPages,
    /// Where the data pages begin in `producer`.
    data: usize,
    /// Bytes of data; a power of two.
    size: usize,
    /// Up to here everything was read.
    position: u64,
    /// What the kernel knows of `position`.
    published: u64,
    wrapped: Vec<u8>,
}

/// Where a record stands.
struct Place {
    offset: usize,
    len: usize,
    discarded: bool,
    next: u64,
}

impl Ring {
    /// Maps the ring behind `fd`, which has `size` bytes of data.
    pub(super) fn new(fd: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        if !size.is_power_of_two() || !size.is_multiple_of(page) {
            return Err(io::Error::other(format!("a ring of {size} bytes")));
        }
        let consumer = SharedPages::map(fd, 0, page, true)?;
        let producer = SharedPages::map(fd, page as u64, page + size, false)?;
        let position = consumer.word(0).load(Ordering::Acquire);
        Ok(Ring { consumer, producer, data: page, size, position, published: position, wrapped: Vec::new() })
    }

    /// Reads one record, oldest first; `None` when there is none.
    pub(super) fn next<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let end = self.producer.word(0).load(Ordering::Acquire);
        let place = loop {
            let place = self.place(self.position, end)?;
            if !place.discarded {
                break place;
            }
            self.advance(place.next);
        };
        let result = if place.offset + place.len <= self.size {
            read(self.producer.committed(self.data + place.offset, place.len))
        } else {
            self.join(&place);
            read(&self.wrapped)
        };
        self.advance(place.next);
        Some(result)
    }

    fn advance(&mut self, position: u64) {
        self.position = position;
        if self.position - self.published >= LOT {
            self.publish();
        }
    }

    /// Tells the kernel what was read, so that it can use the room again.
    pub(super) fn publish(&mut self) {
        if self.published != self.position {
            self.consumer.word(0).store(self.position, Ordering::Release);
            self.published = self.position;
        }
    }

    /// Shows the first bytes, `head` at most, of each record that is committed and not yet read.
    pub(super) fn each_held(&self, head: usize, mut show: impl FnMut(&[u8])) {
        let end = self.producer.word(0).load(Ordering::Acquire);
        let mut position = self.position;
        while let Some(place) = self.place(position, end) {
            if !place.discarded {
                let before_end = self.size - place.offset;
                show(self.producer.committed(self.data + place.offset, place.len.min(head).min(before_end)));
            }
            position = place.next;
        }
    }

    /// The record at `position`; `None` at the end, or where one is not yet committed.
    fn place(&self, position: u64, end: u64) -> Option<Place> {
        if position >= end {
            return None;
        }
        let start = self.offset(position);
        let header = self.producer.half(self.data + start);
        if header & BUSY != 0 {
            return None;
        }
        let len = usize::try_from(header & !(BUSY | DISCARDED)).unwrap_or(usize::MAX).min(self.size - HEADER);
        let next = position + (HEADER + len).next_multiple_of(8) as u64;
        Some(Place { offset: (start + HEADER) % self.size, len, discarded: header & DISCARDED != 0, next })
    }

    fn offset(&self, position: u64) -> usize {
        usize::try_from(position & (self.size as u64 - 1)).unwrap_or_default()
    }

    /// Copies a record that wraps round the end.
    fn join(&mut self, place: &Place) {
        let first = self.size - place.offset;
        self.wrapped.clear();
        self.wrapped.extend_from_slice(self.producer.committed(self.data + place.offset, first));
        self.wrapped.extend_from_slice(self.producer.committed(self.data, place.len - first));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::io::pwrite;

    use super::*;

    /// The kernel's side of a ring, in a file of the same shape.
    struct Kernel {
        file: OwnedFd,
        page: usize,
        size: usize,
        produced: u64,
    }

    impl Kernel {
        fn new(size: usize) -> (Self, Ring) {
            let page = rustix::param::page_size();
            let file = memfd_create("ring", MemfdFlags::empty()).unwrap();
            ftruncate(&file, (2 * page + size) as u64).unwrap();
            let ring = Ring::new(file.as_fd(), size).unwrap();
            (Kernel { file, page, size, produced: 0 }, ring)
        }

        fn write(&self, offset: usize, bytes: &[u8]) {
            let (data, start) = (2 * self.page, offset % self.size);
            let (first, wrapped) = bytes.split_at(bytes.len().min(self.size - start));
            pwrite(&self.file, first, (data + start) as u64).unwrap();
            pwrite(&self.file, wrapped, data as u64).unwrap();
        }

        fn consumed(&self) -> u64 {
            let mut word = [0; 8];
            rustix::io::pread(&self.file, &mut word, 0).unwrap();
            u64::from_ne_bytes(word)
        }

        /// Writes a record as the kernel would; says whether there was room.
        fn submit(&mut self, record: &[u8], flags: u32) -> bool {
            let whole = (HEADER + record.len()).next_multiple_of(8) as u64;
            if self.produced + whole - self.consumed() > self.size as u64 {
                return false;
            }
            let start = usize::try_from(self.produced).unwrap();
            self.write(start, &(u32::try_from(record.len()).unwrap() | flags).to_ne_bytes());
            self.write(start + HEADER, record);
            self.produced += whole;
            pwrite(&self.file, &self.produced.to_ne_bytes(), self.page as u64).unwrap();
            true
        }
    }

    #[test]
    fn a_record_under_way_holds_back_those_behind_it() {
        let (mut kernel, mut ring) = Kernel::new(4096);
        kernel.submit(b"first", 0);
        kernel.submit(b"under way", BUSY);
        kernel.submit(b"behind", 0);
        assert_eq!(ring.next(<[u8]>::to_vec).as_deref(), Some(b"first".as_slice()));
        assert_eq!(ring.next(<[u8]>::to_vec), None);
        kernel.write(16, &9u32.to_ne_bytes());
        assert_eq!(ring.next(<[u8]>::to_vec).as_deref(), Some(b"under way".as_slice()));
        assert_eq!(ring.next(<[u8]>::to_vec).as_deref(), Some(b"behind".as_slice()));
    }

    proptest! {
        /// Against a queue: the same records in the same order, however they wrap, and as many held as not yet read.
        #[test]
        fn the_ring_is_a_queue(steps in prop::collection::vec((0usize..900, 0u8..4, any::<u8>()), 1..200)) {
            let (mut kernel, mut ring) = Kernel::new(4096);
            let mut queue = std::collections::VecDeque::new();
            for (len, what, byte) in steps {
                let record = vec![byte; len];
                match what {
                    0 => {
                        prop_assert_eq!(ring.next(<[u8]>::to_vec), queue.pop_front());
                        ring.publish();
                    }
                    1 => {
                        kernel.submit(&record, DISCARDED);
                    }
                    _ => if kernel.submit(&record, 0) { queue.push_back(record) },
                }
                let mut held = 0;
                ring.each_held(4, |_| held += 1);
                prop_assert_eq!(held, queue.len());
            }
        }
    }
}
