//! The raw layout of BTF: header, type records, strings; and the index over them by type id and by name.
//!
//! Knows sizes and positions only; what a question means is in `answers`. Every read is checked against the
//! bytes, so hostile input ends in [`BtfError::Malformed`].

use std::ops::Range;

use super::BtfError;

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
/// Header length from which it also names a section that describes the size of each kind (Linux 7.1).
const HEADER_WITH_LAYOUT_BYTES: usize = 32;
const RECORD_BYTES: usize = 12;
/// The attributes of a type that is declared and not described, without a name.
const FORWARD: u32 = 7 << 24;
/// Linux's own limit, `BTF_MAX_TYPE`.
const MAX_TYPES: usize = 0x000f_ffff;

/// What a type record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Void,
    Integer,
    Pointer,
    Array,
    Structure,
    Union,
    Enumeration,
    Forward,
    Typedef,
    /// const, volatile, restrict and type tags: they change neither size nor layout.
    Qualifier,
    Function,
    Prototype,
    Variable,
    Section,
    Float,
    DeclarationTag,
    Enumeration64,
    /// Newer than this reader; skipped by the sizes that the file gives.
    Unknown,
}

impl Kind {
    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Void,
            1 => Self::Integer,
            2 => Self::Pointer,
            3 => Self::Array,
            4 => Self::Structure,
            5 => Self::Union,
            6 => Self::Enumeration,
            7 => Self::Forward,
            8 => Self::Typedef,
            9 | 10 | 11 | 18 => Self::Qualifier,
            12 => Self::Function,
            13 => Self::Prototype,
            14 => Self::Variable,
            15 => Self::Section,
            16 => Self::Float,
            17 => Self::DeclarationTag,
            19 => Self::Enumeration64,
            _ => Self::Unknown,
        }
    }

    /// Bytes behind the record: a fixed part, and a part per counted element.
    fn trailing_bytes(self) -> (usize, usize) {
        match self {
            Self::Integer | Self::Variable | Self::DeclarationTag => (4, 0),
            Self::Array => (12, 0),
            Self::Structure | Self::Union | Self::Section | Self::Enumeration64 => (0, 12),
            Self::Enumeration | Self::Prototype => (0, 8),
            Self::Void
            | Self::Pointer
            | Self::Forward
            | Self::Typedef
            | Self::Qualifier
            | Self::Function
            | Self::Float
            | Self::Unknown => (0, 0),
        }
    }

    fn is_asked_by_name(self) -> bool {
        matches!(
            self,
            Self::Structure | Self::Union | Self::Enumeration | Self::Enumeration64 | Self::Typedef | Self::Function
        )
    }
}

/// One type record, without what follows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) name_offset: u32,
    /// Elements behind the record: members, parameters, enumerators.
    pub(super) count: u32,
    /// Members carry bit-field sizes; enumerators are signed.
    pub(super) flag: bool,
    /// A size in bytes or a type id, by kind.
    pub(super) size_or_type: u32,
    /// Position of what follows the record.
    pub(super) trailing: usize,
}

const VOID: Record = Record { kind: Kind::Void, name_offset: 0, count: 0, flag: false, size_or_type: 0, trailing: 0 };

/// The bytes, the position of each type, and the types that can be asked for by name.
#[derive(Debug)]
pub(super) struct Index {
    bytes: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
    layouts: Range<usize>,
    /// Position of type id `n + 1`; id 0 is void and has no record.
    positions: Vec<u32>,
    /// (hash of the name, type id), sorted.
    names: Vec<(u32, u32)>,
}

struct Sections {
    types: Range<usize>,
    strings: Range<usize>,
    layouts: Range<usize>,
}

impl Index {
    pub(super) fn build(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let sections = sections(&bytes)?;
        let Sections { types, strings, layouts } = sections;
        let mut index = Self { bytes, types, strings, layouts, positions: Vec::new(), names: Vec::new() };
        let (mut position, end) = (index.types.start, index.types.end);
        while position < end {
            let record = index.record_at(position)?;
            let next = position
                .checked_add(index.record_bytes(position, record)?)
                .filter(|next| *next <= end)
                .ok_or(BtfError::Malformed { what: "a type that reaches beyond its section", position })?;
            let start =
                u32::try_from(position).map_err(|_| BtfError::Malformed { what: "more than 4 GiB", position })?;
            if index.positions.len() >= MAX_TYPES {
                return Err(BtfError::Malformed { what: "more types than the kernel allows", position });
            }
            index.positions.push(start);
            if record.name_offset != 0 && record.kind.is_asked_by_name() {
                let id = u32::try_from(index.positions.len()).unwrap_or(u32::MAX);
                index.names.push((hash(index.string(record.name_offset)?), id));
            }
            position = next;
        }
        index.names.sort_unstable();
        index.names.shrink_to_fit();
        index.positions.shrink_to_fit();
        Ok(index)
    }

    /// The bytes of this BTF with those of a module behind it: the module's type ids and places of strings go on where
    /// these end, so sections that are put together are one BTF.
    pub(super) fn joined(&self, module: &[u8]) -> Result<Vec<u8>, BtfError> {
        let split = sections(module)?;
        let own = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        let others = |range: &Range<usize>| module.get(range.clone()).unwrap_or_default();
        let layouts = if self.layouts.is_empty() { others(&split.layouts) } else { own(&self.layouts) };
        let types = [own(&self.types), others(&split.types)].concat();
        let strings = [own(&self.strings), others(&split.strings)].concat();
        let length = |part: &[u8]| {
            u32::try_from(part.len()).map_err(|_| BtfError::Malformed { what: "more than 4 GiB", position: 0 })
        };
        let (type_bytes, string_bytes) = (length(&types)?, length(&strings)?);
        let header_bytes = length(&[0; HEADER_WITH_LAYOUT_BYTES])?;
        let mut bytes = [MAGIC.to_le_bytes(), [1, 0]].concat();
        for word in [header_bytes, 0, type_bytes, type_bytes, string_bytes, type_bytes + string_bytes, length(layouts)?]
        {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([&*types, &*strings, layouts].concat());
        Ok(bytes)
    }

    /// BTF with a record for each of these types, of which only those are named for whom `is_named` holds, and none is
    /// described.
    pub(super) fn outline(&self, is_named: impl Fn(Kind, &[u8]) -> bool) -> Vec<u8> {
        // No part is longer than in the BTF that it comes from.
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap_or_default();
        let (mut types, mut strings) = (Vec::with_capacity(self.positions.len() * RECORD_BYTES), vec![0]);
        for position in &self.positions {
            let position = *position as usize;
            let record = self.record_at(position).ok().filter(|record| record.kind.is_asked_by_name());
            let named = record.and_then(|record| Some((record.kind, self.string(record.name_offset).ok()?)));
            let (name_offset, attributes) = match named.filter(|(kind, name)| is_named(*kind, name)) {
                Some((_, name)) => {
                    let offset = length(&strings);
                    strings.extend([name, &[0]].concat());
                    (offset, u32_at(&self.bytes, position + 4).unwrap_or(FORWARD))
                }
                None => (0, FORWARD),
            };
            for word in [name_offset, attributes, 0] {
                types.extend(word.to_le_bytes());
            }
        }
        let mut bytes = [MAGIC.to_le_bytes(), [1, 0]].concat();
        for word in [length(&[0; HEADER_BYTES]), 0, length(&types), length(&types), length(&strings)] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([types, strings].concat());
        bytes
    }

    /// The record of a type id; 0 is void.
    pub(super) fn record(&self, type_id: u32) -> Result<Record, BtfError> {
        let Some(slot) = type_id.checked_sub(1) else {
            return Ok(VOID);
        };
        match self.positions.get(slot as usize) {
            Some(position) => self.record_at(*position as usize),
            None => {
                Err(BtfError::Malformed { what: "a reference to a type that is not there", position: type_id as usize })
            }
        }
    }

    /// Ids of the types of that name, in file order.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let wanted = hash(name.as_bytes());
        let first = self.names.partition_point(|(hash, _)| *hash < wanted);
        self.names.iter().skip(first).take_while(move |(hash, _)| *hash == wanted).map(|(_, id)| *id).filter(
            move |id| {
                let text = self.record(*id).and_then(|record| self.string(record.name_offset));
                text.is_ok_and(|text| text == name.as_bytes())
            },
        )
    }

    /// A string, without its end mark.
    pub(super) fn string(&self, offset: u32) -> Result<&[u8], BtfError> {
        let position = self.strings.start.saturating_add(offset as usize);
        let tail = self.bytes.get(position..self.strings.end).unwrap_or_default();
        let length = tail.iter().position(|byte| *byte == 0);
        length
            .and_then(|length| tail.get(..length))
            .ok_or(BtfError::Malformed { what: "a string that is outside its section", position })
    }

    /// Word `word` (of 32 bits) of element `element` behind a record.
    pub(super) fn word(
        &self,
        record: &Record,
        element: u32,
        words_per_element: usize,
        word: usize,
    ) -> Result<u32, BtfError> {
        let position = record.trailing + (element as usize * words_per_element + word) * 4;
        u32_at(&self.bytes, position)
    }

    fn record_at(&self, position: usize) -> Result<Record, BtfError> {
        let attributes = u32_at(&self.bytes, position + 4)?;
        Ok(Record {
            kind: Kind::from_number(kind_number(attributes)),
            name_offset: u32_at(&self.bytes, position)?,
            count: attributes & 0x00ff_ffff,
            flag: attributes >> 31 != 0,
            size_or_type: u32_at(&self.bytes, position + 8)?,
            trailing: position + RECORD_BYTES,
        })
    }

    fn record_bytes(&self, position: usize, record: Record) -> Result<usize, BtfError> {
        let (fixed, per_element) = match record.kind {
            Kind::Void => {
                return Err(BtfError::Malformed { what: "a record of kind void", position });
            }
            Kind::Unknown => {
                let kind = kind_number(u32_at(&self.bytes, position + 4)?);
                let layout = self.layouts.start + kind as usize * 4;
                match self.bytes.get(layout..self.layouts.end) {
                    Some([fixed, per_element, _, _, ..]) => (usize::from(*fixed), usize::from(*per_element)),
                    _ => {
                        return Err(BtfError::UnknownKind { kind, type_id: self.positions.len() + 1 });
                    }
                }
            }
            known => known.trailing_bytes(),
        };
        Ok(RECORD_BYTES + fixed + per_element * record.count as usize)
    }
}

/// Seven bits: Linux 7.1 widened it from five, which were followed by zeros.
fn kind_number(attributes: u32) -> u32 {
    (attributes >> 24) & 0x7f
}

fn sections(bytes: &[u8]) -> Result<Sections, BtfError> {
    let malformed = |what| BtfError::Malformed { what, position: 0 };
    match bytes {
        [low, high, 1, _, ..] if u16::from_le_bytes([*low, *high]) == MAGIC => {}
        [low, high, ..] if u16::from_be_bytes([*low, *high]) == MAGIC => {
            return Err(malformed("the other byte order"));
        }
        [low, high, _, ..] if u16::from_le_bytes([*low, *high]) == MAGIC => {
            return Err(malformed("a version other than 1"));
        }
        _ => return Err(malformed("no BTF magic number")),
    }
    let header_bytes = u32_at(bytes, 4)? as usize;
    if header_bytes < HEADER_BYTES {
        return Err(malformed("a header that is too short"));
    }
    let section = |at: usize, what: &'static str| -> Result<Range<usize>, BtfError> {
        let start = header_bytes.saturating_add(u32_at(bytes, at)? as usize);
        let end = start.saturating_add(u32_at(bytes, at + 4)? as usize);
        if end > bytes.len() {
            return Err(BtfError::Malformed { what, position: at });
        }
        Ok(start..end)
    };
    let layouts = if header_bytes >= HEADER_WITH_LAYOUT_BYTES {
        section(24, "a layout section beyond the end of the file")?
    } else {
        0..0
    };
    Ok(Sections {
        types: section(8, "a type section beyond the end of the file")?,
        strings: section(16, "a string section beyond the end of the file")?,
        layouts,
    })
}

fn u32_at(bytes: &[u8], position: usize) -> Result<u32, BtfError> {
    let end = position.saturating_add(4);
    match bytes.get(position..end) {
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(BtfError::Malformed { what: "an end of file", position }),
    }
}

/// FNV-1a, enough to spread a hundred thousand names over 32 bits; equal hashes are told apart by the text.
fn hash(text: &[u8]) -> u32 {
    text.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
