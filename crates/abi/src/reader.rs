//! Checked access to the bytes of one record.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use watchfire_event::Credentials;

use crate::decode::DecodeError;
use crate::layout::EventCredentials;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// One record: a fixed part, then strings without gaps.
pub(crate) struct Reader<'a> {
    record: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A record whose fixed part has `fixed` bytes.
    pub(crate) fn new(record: &'a [u8], fixed: usize) -> Result<Self, DecodeError> {
        let strings = record.get(fixed..).ok_or(DecodeError::Short { size: record.len(), needed: fixed })?;
        Ok(Reader { record, strings })
    }

    pub(crate) fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], DecodeError> {
        let short = DecodeError::Short { size: self.record.len(), needed: offset + N };
        let bytes = self.record.get(offset..offset + N).ok_or(short)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    pub(crate) fn u8(&self, offset: usize) -> Result<u8, DecodeError> {
        self.array::<1>(offset).map(|[byte]| byte)
    }

    pub(crate) fn u16(&self, offset: usize) -> Result<u16, DecodeError> {
        self.array(offset).map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&self, offset: usize) -> Result<u32, DecodeError> {
        self.array(offset).map(u32::from_ne_bytes)
    }

    pub(crate) fn i32(&self, offset: usize) -> Result<i32, DecodeError> {
        self.array(offset).map(i32::from_ne_bytes)
    }

    pub(crate) fn u64(&self, offset: usize) -> Result<u64, DecodeError> {
        self.array(offset).map(u64::from_ne_bytes)
    }

    /// The next string, whose size stands at `offset`.
    pub(crate) fn string(&mut self, offset: usize) -> Result<&'a [u8], DecodeError> {
        let size = usize::from(self.u16(offset)?);
        let (string, rest) = self
            .strings
            .split_at_checked(size)
            .ok_or(DecodeError::Strings { told: size, left: self.strings.len() })?;
        self.strings = rest;
        Ok(string)
    }

    /// All strings were taken; what is left over is a fault.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.strings.len() {
            0 => Ok(()),
            left => Err(DecodeError::Strings { told: 0, left }),
        }
    }

    pub(crate) fn credentials(&self, base: usize) -> Result<Credentials, DecodeError> {
        use std::mem::offset_of;
        Ok(Credentials {
            uid: self.u32(base + offset_of!(EventCredentials, uid))?,
            euid: self.u32(base + offset_of!(EventCredentials, euid))?,
            suid: self.u32(base + offset_of!(EventCredentials, suid))?,
            gid: self.u32(base + offset_of!(EventCredentials, gid))?,
            egid: self.u32(base + offset_of!(EventCredentials, egid))?,
            cap_effective: self.u64(base + offset_of!(EventCredentials, cap_effective))?,
            cap_permitted: self.u64(base + offset_of!(EventCredentials, cap_permitted))?,
        })
    }

    /// An address and port; an IPv4 address inside an IPv6 one comes out as IPv4.
    pub(crate) fn address(&self, bytes: usize, port: u16, family: u16) -> Result<SocketAddr, DecodeError> {
        let ip = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::from(self.array::<4>(bytes)?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>(bytes)?)).to_canonical(),
            other => return Err(DecodeError::Number { what: "address family", number: u64::from(other) }),
        };
        Ok(SocketAddr::new(ip, port))
    }
}

/// Everything before the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Components, leaf first, each ended by NUL → an absolute path. A path that was cut starts with `...`.
pub(crate) fn join_path(components: &[u8], cut: bool) -> Vec<u8> {
    let components = components.strip_suffix(b"\0").unwrap_or(components);
    let mut path = if cut { b"...".to_vec() } else { Vec::new() };
    if components.is_empty() {
        path.push(b'/');
        return path;
    }
    path.reserve(components.len() + 1);
    for component in components.rsplit(|byte| *byte == 0) {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_turned_round() {
        assert_eq!(join_path(b"bash\0bin\0usr\0", false), b"/usr/bin/bash");
        assert_eq!(join_path(b"memfd:x\0", false), b"/memfd:x");
        assert_eq!(join_path(b"", false), b"/");
        assert_eq!(join_path(b"c\0b\0", true), b".../b/c");
    }
}
