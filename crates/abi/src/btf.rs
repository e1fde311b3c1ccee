//! Compares the mirrored layout with the BTF of the built objects: a small reader of ELF64 and BTF, for tests only.
//! Format: <https://docs.kernel.org/bpf/btf.html>.

use std::collections::BTreeMap;
use std::path::Path;

use crate::layout::LAYOUTS;

const BTF_KIND_ARRAY: u32 = 3;
const BTF_KIND_STRUCT: u32 = 4;
const BTF_KIND_UNION: u32 = 5;

/// Size of a structure and the byte offset of each field.
type Structure = (usize, BTreeMap<String, usize>);

fn number(bytes: &[u8], offset: usize, width: usize) -> usize {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(&bytes[offset..offset + width]);
    usize::try_from(u64::from_le_bytes(wide)).unwrap()
}

fn section<'a>(elf: &'a [u8], wanted: &str) -> &'a [u8] {
    let (table, size, count) = (number(elf, 40, 8), number(elf, 58, 2), number(elf, 60, 2));
    let content = |index: usize| {
        let header = &elf[table + index * size..][..size];
        &elf[number(header, 24, 8)..][..number(header, 32, 8)]
    };
    let names = content(number(elf, 62, 2));
    for index in 1..count {
        let name = &names[number(elf, table + index * size, 4)..];
        if name.split(|byte| *byte == 0).next() == Some(wanted.as_bytes()) {
            return content(index);
        }
    }
    panic!("no section {wanted}");
}

/// Bytes that follow the twelve bytes every type starts with.
fn tail(kind: u32, members: usize) -> usize {
    match kind {
        1 | 14 | 17 => 4, // int, var, decl_tag
        BTF_KIND_ARRAY => 12,
        BTF_KIND_STRUCT | BTF_KIND_UNION | 15 | 19 => 12 * members, // also datasec, enum64
        6 | 13 => 8 * members,                                      // enum, func_proto
        2 | 7..=12 | 16 | 18 => 0, // pointer, forward, typedef, qualifiers, func, float, type_tag
        other => panic!("BTF kind {other}"),
    }
}

fn structures(elf: &[u8]) -> BTreeMap<String, Structure> {
    let btf = section(elf, ".BTF");
    let (head, types, types_size) = (number(btf, 4, 4), number(btf, 8, 4), number(btf, 12, 4));
    let strings = &btf[head + number(btf, 16, 4)..][..number(btf, 20, 4)];
    let text = |at: usize| {
        let bytes = strings[at..].split(|byte| *byte == 0).next().unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    let types = &btf[head + types..][..types_size];
    let mut found = BTreeMap::new();
    let mut at = 0;
    while at < types.len() {
        let info = u32::try_from(number(types, at + 4, 4)).unwrap();
        let (kind, members) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).unwrap());
        if kind == BTF_KIND_STRUCT {
            let member = |index: usize| at + 12 + 12 * index;
            // Without bit fields the third word is the offset in bits.
            let field =
                |index| (text(number(types, member(index), 4)), number(types, member(index) + 8, 4) / 8);
            found.insert(
                text(number(types, at, 4)),
                (number(types, at + 8, 4), (0..members).map(field).collect()),
            );
        }
        at += 12 + tail(kind, members);
    }
    found
}

#[test]
fn every_mirrored_offset_is_the_one_in_the_built_objects() {
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/objects");
    let mut built = BTreeMap::new();
    for entry in std::fs::read_dir(&objects).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "o") {
            for (name, structure) in structures(&std::fs::read(&path).unwrap()) {
                if name.starts_with("event_") {
                    let first = built.entry(name.clone()).or_insert_with(|| structure.clone());
                    assert_eq!(*first, structure, "{name} in {}", path.display());
                }
            }
        }
    }
    for layout in LAYOUTS {
        let (size, fields) =
            built.remove(layout.name).unwrap_or_else(|| panic!("{} is in no object", layout.name));
        assert_eq!(layout.size, size, "{}", layout.name);
        let mirrored: BTreeMap<_, _> =
            layout.fields.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect();
        assert_eq!(mirrored, fields, "{}", layout.name);
    }
    assert!(built.is_empty(), "not mirrored: {:?}", built.keys());
}
