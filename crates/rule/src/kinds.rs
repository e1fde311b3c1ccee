//! A set of event kinds, one bit each.

use watchfire_event::Kind;

/// Which kinds of event a rule can match, or a field exists in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KindSet(u32);

impl KindSet {
    /// No kind.
    pub const NONE: KindSet = KindSet(0);
    /// Every kind.
    pub const ALL: KindSet = KindSet(u32::MAX);
    /// The seven file kinds.
    pub const FILE: KindSet = KindSet::of(&[
        Kind::FileCreate,
        Kind::FileWrite,
        Kind::FileRename,
        Kind::FileUnlink,
        Kind::FileAttrib,
        Kind::FileLink,
        Kind::FileOpen,
    ]);
    /// The four network kinds.
    pub const NETWORK: KindSet = KindSet::of(&[Kind::Connect, Kind::Accept, Kind::Listen, Kind::UdpSend]);

    /// These kinds.
    pub const fn of(kinds: &[Kind]) -> KindSet {
        let mut bits = 0;
        let mut index = 0;
        while index < kinds.len() {
            bits |= 1 << kinds[index] as u8;
            index += 1;
        }
        KindSet(bits)
    }

    /// Whether `kind` is in the set.
    pub const fn holds(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// The set without `kinds`.
    pub const fn without(self, kinds: &[Kind]) -> KindSet {
        KindSet(self.0 & !KindSet::of(kinds).0)
    }

    /// Adds one kind.
    pub fn insert(&mut self, kind: Kind) {
        *self = KindSet(self.0 | KindSet::of(&[kind]).0);
    }

    /// Whether no kind is in the set.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// The kinds of the set, by number.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |kind| self.holds(*kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let mut set = KindSet::of(&[Kind::Exec, Kind::Loss]);
        set.insert(Kind::Mount);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Kind::Exec, Kind::Mount, Kind::Loss]);
        assert!(set.without(&[Kind::Exec, Kind::Mount, Kind::Loss]).is_empty());
        assert_eq!(KindSet::ALL.iter().count(), Kind::ALL.len());
    }
}
