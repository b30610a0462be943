//! Walks from type to type: through members, typedefs and arrays.
//!
//! Hostile types are bounded in two ways: a chain of typedefs or arrays in length, a search through unnamed
//! members in depth and in members visited.

use super::index::{Kind, Record};
use super::{Btf, BtfError, Shape};

/// Longest chain of typedefs, qualifiers or arrays of arrays; the kernel's own reach about ten.
pub(super) const MAX_CHAIN: u32 = 64;
/// Deepest nesting of unnamed structures; the kernel itself refuses more than 32.
pub(super) const MAX_DEPTH: u32 = 32;
/// Members visited for one path component. `task_struct`, the largest in use, has about 300.
pub(super) const MAX_VISITS: u32 = 100_000;
const POINTER_BYTES: u32 = 8;

/// A member found in a structure or in an unnamed one inside it.
pub(super) struct Found {
    pub(super) bit_offset: u64,
    pub(super) type_id: u32,
    /// Width if it is a bit field.
    pub(super) bits: Option<u32>,
}

impl Btf {
    /// Searches one structure and the unnamed ones inside it.
    pub(super) fn find(
        &self,
        structure: u32,
        member: &[u8],
        depth: u32,
        visits: &mut u32,
        path: &str,
    ) -> Result<Option<Found>, BtfError> {
        let endless = || BtfError::Endless { name: path.to_owned() };
        let record = self.index.record(structure)?;
        for element in 0..record.count {
            *visits = visits.checked_sub(1).ok_or_else(endless)?;
            let name = self.index.string(self.index.word(&record, element, 3, 0)?)?;
            if name != member && !name.is_empty() {
                continue;
            }
            let type_id = self.index.word(&record, element, 3, 1)?;
            let placement = self.index.word(&record, element, 3, 2)?;
            let (bit_offset, flagged_bits) =
                if record.flag { (placement & 0x00ff_ffff, placement >> 24) } else { (placement, 0) };
            let bit_offset = u64::from(bit_offset);
            if name == member {
                let bits = self.bit_field(type_id, bit_offset, flagged_bits, path)?;
                return Ok(Some(Found { bit_offset, type_id, bits }));
            }
            let (inner_id, inner) = self.unqualified(type_id, path)?;
            if is_aggregate(inner.kind) {
                let depth = depth.checked_sub(1).ok_or_else(endless)?;
                if let Some(found) = self.find(inner_id, member, depth, visits, path)? {
                    return Ok(Some(Found { bit_offset: bit_offset + found.bit_offset, ..found }));
                }
            }
        }
        Ok(None)
    }

    /// The width of a member that is a bit field. Without widths in the members, an integer type that is
    /// narrower than its storage tells.
    fn bit_field(&self, type_id: u32, bit_offset: u64, flagged_bits: u32, path: &str) -> Result<Option<u32>, BtfError> {
        if flagged_bits != 0 {
            return Ok(Some(flagged_bits));
        }
        let (_, record) = self.unqualified(type_id, path)?;
        if record.kind == Kind::Integer {
            let encoding = self.index.word(&record, 0, 1, 0)?;
            let (bits, start) = (encoding & 0xff, (encoding >> 16) & 0xff);
            if start != 0 || u64::from(bits) != u64::from(record.size_or_type) * 8 {
                return Ok(Some(bits));
            }
        }
        if !bit_offset.is_multiple_of(8) {
            return Err(BtfError::Malformed { what: "a member that starts inside a byte", position: record.trailing });
        }
        Ok(None)
    }

    /// Follows typedefs and qualifiers to the type that they name.
    pub(super) fn unqualified(&self, mut type_id: u32, asked: &str) -> Result<(u32, Record), BtfError> {
        for _ in 0..MAX_CHAIN {
            let record = self.index.record(type_id)?;
            if !matches!(record.kind, Kind::Typedef | Kind::Qualifier) {
                return Ok((type_id, record));
            }
            type_id = record.size_or_type;
        }
        Err(BtfError::Endless { name: asked.to_owned() })
    }

    pub(super) fn size_bytes(&self, type_id: u32, chain: u32, asked: &str) -> Result<u32, BtfError> {
        let chain = chain.checked_sub(1).ok_or_else(|| BtfError::Endless { name: asked.to_owned() })?;
        let (_, record) = self.unqualified(type_id, asked)?;
        match record.kind {
            Kind::Pointer => Ok(POINTER_BYTES),
            Kind::Array => {
                let element_bytes = self.size_bytes(self.index.word(&record, 0, 3, 0)?, chain, asked)?;
                let length = self.index.word(&record, 0, 3, 2)?;
                element_bytes
                    .checked_mul(length)
                    .ok_or(BtfError::Malformed { what: "an array beyond 4 GiB", position: record.trailing })
            }
            Kind::Integer | Kind::Structure | Kind::Union | Kind::Enumeration | Kind::Enumeration64 | Kind::Float => {
                Ok(record.size_or_type)
            }
            _ => Err(BtfError::Malformed { what: "a member of a type without size", position: record.trailing }),
        }
    }

    pub(super) fn shape(&self, type_id: u32, asked: &str) -> Result<Shape, BtfError> {
        let (_, record) = self.unqualified(type_id, asked)?;
        Ok(match record.kind {
            Kind::Void => Shape::Void,
            Kind::Integer => {
                let encoding = self.index.word(&record, 0, 1, 0)? >> 24;
                if encoding & 4 != 0 { Shape::Boolean } else { Shape::Integer { signed: encoding & 1 != 0 } }
            }
            Kind::Float => Shape::Float,
            Kind::Enumeration | Kind::Enumeration64 => Shape::Enumeration,
            Kind::Pointer => Shape::Pointer,
            Kind::Array => self.array(&record, asked)?,
            Kind::Structure => Shape::Structure,
            Kind::Union => Shape::Union,
            _ => Shape::Other,
        })
    }

    /// An array of arrays is one of all their elements: older kernels write it so, newer ones array by array.
    fn array(&self, outermost: &Record, asked: &str) -> Result<Shape, BtfError> {
        let (mut record, mut elements) = (*outermost, 1_u32);
        for _ in 0..MAX_CHAIN {
            let length = self.index.word(&record, 0, 3, 2)?;
            elements = elements
                .checked_mul(length)
                .ok_or(BtfError::Malformed { what: "an array beyond 4 GiB", position: record.trailing })?;
            let (element, inner) = self.unqualified(self.index.word(&record, 0, 3, 0)?, asked)?;
            if inner.kind != Kind::Array {
                return Ok(Shape::Array { element_bytes: self.size_bytes(element, MAX_CHAIN, asked)?, elements });
            }
            record = inner;
        }
        Err(BtfError::Endless { name: asked.to_owned() })
    }
}

pub(super) fn is_aggregate(kind: Kind) -> bool {
    matches!(kind, Kind::Structure | Kind::Union)
}
