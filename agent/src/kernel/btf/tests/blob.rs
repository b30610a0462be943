//! Writes BTF by hand.

use super::super::Btf;

pub(super) const INT: u32 = 1;
pub(super) const PTR: u32 = 2;
pub(super) const ARRAY: u32 = 3;
pub(super) const STRUCT: u32 = 4;
pub(super) const UNION: u32 = 5;
pub(super) const ENUM: u32 = 6;
pub(super) const TYPEDEF: u32 = 8;
pub(super) const CONST: u32 = 10;
pub(super) const FUNC: u32 = 12;
pub(super) const FUNC_PROTO: u32 = 13;
pub(super) const TYPE_TAG: u32 = 18;
pub(super) const ENUM64: u32 = 19;
pub(super) const FLAG: u32 = 0x80;

/// Writes types in order; the first gets id 1.
pub(in crate::kernel) struct Blob {
    pub(super) types: Vec<u8>,
    pub(super) strings: Vec<u8>,
    pub(super) count: u32,
}

impl Blob {
    /// Begins with id 1 `unsigned int` of 32 bits, id 2 `_Bool`.
    pub(in crate::kernel) fn new() -> Self {
        let mut blob = Self { types: Vec::new(), strings: vec![0], count: 0 };
        blob.add("unsigned int", INT, 0, 4, &[32]);
        blob.add("_Bool", INT, 0, 1, &[(4 << 24) | 8]);
        blob
    }

    pub(in crate::kernel) fn text(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        offset
    }

    pub(in crate::kernel) fn add(
        &mut self,
        name: &str,
        kind: u32,
        count: u32,
        size_or_type: u32,
        trailing: &[u32],
    ) -> u32 {
        let name = self.text(name);
        for word in [name, (kind << 24) | count, size_or_type].iter().chain(trailing) {
            self.types.extend(word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    /// Members are (name, type, bit offset with the bit-field width above it).
    pub(in crate::kernel) fn aggregate(
        &mut self,
        name: &str,
        kind: u32,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let words: Vec<u32> =
            members.iter().flat_map(|(name, type_id, place)| [self.text(name), *type_id, *place]).collect();
        self.add(name, kind, u32::try_from(members.len()).unwrap(), size, &words)
    }

    pub(in crate::kernel) fn bytes(&self) -> Vec<u8> {
        self.bytes_with_layout(&[])
    }

    pub(in crate::kernel) fn bytes_with_layout(&self, layout: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let (types, strings) = (length(&self.types), length(&self.strings));
        let mut words = vec![24, 0, types, types, strings];
        if !layout.is_empty() {
            words = vec![32, 0, types, types, strings, types + strings, length(layout)];
        }
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes.extend(layout);
        bytes
    }

    pub(in crate::kernel) fn parse(&self) -> Btf {
        Btf::parse(self.bytes()).unwrap()
    }
}

/// One structure with all that a path can meet.
pub(in crate::kernel) fn rich() -> Blob {
    let mut blob = Blob::new();
    let pointer = blob.add("", PTR, 0, 1, &[]);
    let tag = blob.add("rcu", TYPE_TAG, 0, pointer, &[]);
    let constant = blob.add("", CONST, 0, tag, &[]);
    let alias = blob.add("alias_t", TYPEDEF, 0, constant, &[]);
    let array = blob.add("", ARRAY, 0, 0, &[pointer, 1, 5]);
    let matrix = blob.add("", ARRAY, 0, 0, &[array, 1, 3]);
    let entity = blob.aggregate("entity", STRUCT, 16, &[("weight", 1, 0), ("queue", pointer, 64)]);
    let entity_alias = blob.add("entity_t", TYPEDEF, 0, entity, &[]);
    let innermost = blob.aggregate("", STRUCT, 8, &[("left", 1, 0), ("right", 1, 32)]);
    let choice = blob.aggregate("", UNION, 8, &[("whole", 1, 0), ("", innermost, 0)]);
    blob.aggregate(
        "task",
        STRUCT,
        400,
        &[
            ("flags", 1, 0),
            ("se", entity_alias, 64),
            ("", choice, 192),
            ("alias", alias, 256),
            ("array", array, 320),
            ("matrix", matrix, 640),
            ("ready", 2, 1600),
        ],
    );
    blob.aggregate(
        "bits",
        STRUCT | FLAG,
        8,
        &[("plain", 1, 0), ("one", 1, (1 << 24) + 32), ("three", 1, (3 << 24) + 33)],
    );
    let narrow = blob.add("unsigned int", INT, 0, 4, &[5]);
    blob.aggregate("old_bits", STRUCT, 8, &[("plain", 1, 0), ("five", narrow, 35)]);
    blob
}
