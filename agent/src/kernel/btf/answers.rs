//! The questions that [`Btf`] answers by name.

use super::index::{Kind, Record};
use super::types::{MAX_CHAIN, MAX_DEPTH, MAX_VISITS, is_aggregate};
use super::{Argument, Bits, Btf, BtfError, Member};

impl Btf {
    /// Finds a member by its path from a structure or union, for example `task_struct.se.cfs_rq`.
    ///
    /// Structures and unions embedded by value are walked, unnamed ones without being named; a pointer can
    /// only be last. Where several structures have the first name (each compilation unit may have its own),
    /// the first that has the whole path is taken.
    ///
    /// # Errors
    /// [`BtfError::MissingStructure`], [`BtfError::MissingMember`], [`BtfError::NotEmbedded`],
    /// [`BtfError::BitField`], [`BtfError::Path`]; and for damaged files [`BtfError::Malformed`] and
    /// [`BtfError::Endless`].
    pub fn member(&self, path: &str) -> Result<Member, BtfError> {
        let invalid = || BtfError::Path { path: path.to_owned() };
        let (structure, members) = path.split_once('.').ok_or_else(invalid)?;
        if structure.is_empty() || members.split('.').any(str::is_empty) {
            return Err(invalid());
        }
        let mut refusal = None;
        for (type_id, _) in self.structures(structure) {
            match self.member_of(type_id, path, structure.len()) {
                Ok(member) => return Ok(member),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.unwrap_or_else(|| BtfError::MissingStructure { name: structure.to_owned() }))
    }

    /// The same of a member that may be a bit field.
    ///
    /// # Errors
    /// As for [`Btf::member`], without [`BtfError::BitField`].
    pub fn bits(&self, path: &str) -> Result<Bits, BtfError> {
        match self.member(path) {
            Ok(member) => {
                Ok(Bits { offset: u64::from(member.offset_bytes) * 8, count: member.size_bytes.saturating_mul(8) })
            }
            Err(BtfError::BitField { bit_offset, bits, .. }) => Ok(Bits { offset: bit_offset, count: bits }),
            Err(refusal) => Err(refusal),
        }
    }

    /// The first of several paths that this kernel has: a member that was renamed is asked for by all its
    /// names, newest first.
    ///
    /// # Errors
    /// That of the first path; [`BtfError::Path`] if there is none.
    pub fn first_member(&self, paths: &[&str]) -> Result<Member, BtfError> {
        let mut refusal = None;
        for path in paths {
            match self.member(path) {
                Ok(member) => return Ok(member),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.unwrap_or_else(|| BtfError::Path { path: String::new() }))
    }

    /// Size in bytes of a structure or union; the first of that name.
    ///
    /// # Errors
    /// [`BtfError::MissingStructure`].
    pub fn struct_size(&self, name: &str) -> Result<u32, BtfError> {
        let first = self.structures(name).next();
        first.map(|(_, record)| record.size_or_type).ok_or_else(|| BtfError::MissingStructure { name: name.to_owned() })
    }

    /// The value of an enumeration's constant.
    ///
    /// Kernels before 6.0 mark no enumeration as signed, so a negative constant is read there as its 32-bit
    /// pattern; a constant above `i64::MAX` is its 64-bit pattern.
    ///
    /// # Errors
    /// [`BtfError::MissingEnumerator`]; [`BtfError::Malformed`] for a damaged file.
    pub fn enum_value(&self, enumeration: &str, enumerator: &str) -> Result<i64, BtfError> {
        for type_id in self.index.named(enumeration) {
            let constants = self.constants_of(type_id)?;
            if let Some((_, value)) = constants.into_iter().find(|(name, _)| *name == enumerator.as_bytes()) {
                return Ok(value);
            }
        }
        Err(BtfError::MissingEnumerator { enumeration: enumeration.to_owned(), enumerator: enumerator.to_owned() })
    }

    /// All constants of an enumeration with their values, as they stand in its definition.
    ///
    /// # Errors
    /// [`BtfError::MissingEnumeration`]; [`BtfError::Malformed`] for a damaged file.
    pub fn enumerators(&self, enumeration: &str) -> Result<Vec<(String, i64)>, BtfError> {
        for type_id in self.index.named(enumeration) {
            let constants = self.constants_of(type_id)?;
            if !constants.is_empty() {
                let text = |(name, value)| (String::from_utf8_lossy(name).into_owned(), value);
                return Ok(constants.into_iter().map(text).collect());
            }
        }
        Err(BtfError::MissingEnumeration { name: enumeration.to_owned() })
    }

    /// The constants of a type; none of one that is no enumeration.
    fn constants_of(&self, type_id: u32) -> Result<Vec<(&[u8], i64)>, BtfError> {
        let record = self.index.record(type_id)?;
        let words = match record.kind {
            Kind::Enumeration => 2,
            Kind::Enumeration64 => 3,
            _ => return Ok(Vec::new()),
        };
        let constant = |element| {
            let name = self.index.string(self.index.word(&record, element, words, 0)?)?;
            let low = self.index.word(&record, element, words, 1)?;
            let value = match (record.kind, record.flag) {
                (Kind::Enumeration64, _) => {
                    let high = self.index.word(&record, element, words, 2)?;
                    ((u64::from(high) << 32) | u64::from(low)).cast_signed()
                }
                (_, true) => i64::from(low.cast_signed()),
                (_, false) => i64::from(low),
            };
            Ok((name, value))
        };
        (0..record.count).map(constant).collect()
    }

    /// The arguments that a tracepoint passes to programs attached with BTF types, in order.
    ///
    /// The kernel describes them by a type `btf_trace_<name>`: a pointer to a function whose first parameter,
    /// dropped here, is the tracepoint's private pointer.
    ///
    /// # Errors
    /// [`BtfError::MissingTracepoint`]; for a damaged file [`BtfError::Malformed`] and [`BtfError::Endless`].
    pub fn tracepoint(&self, name: &str) -> Result<Vec<Argument>, BtfError> {
        let typedef = format!("btf_trace_{name}");
        for type_id in self.index.named(&typedef) {
            let (_, pointer) = self.unqualified(type_id, &typedef)?;
            if pointer.kind != Kind::Pointer {
                continue;
            }
            let (_, prototype) = self.unqualified(pointer.size_or_type, &typedef)?;
            if prototype.kind == Kind::Prototype {
                return (1..prototype.count).map(|element| self.argument(&prototype, element, name)).collect();
            }
        }
        Err(BtfError::MissingTracepoint { name: name.to_owned() })
    }

    /// The arguments of a function, in order.
    ///
    /// # Errors
    /// [`BtfError::MissingFunction`]; for a damaged file [`BtfError::Malformed`] and [`BtfError::Endless`].
    pub fn function(&self, name: &str) -> Result<Vec<Argument>, BtfError> {
        for type_id in self.index.named(name) {
            let function = self.index.record(type_id)?;
            if function.kind != Kind::Function {
                continue;
            }
            let (_, prototype) = self.unqualified(function.size_or_type, name)?;
            if prototype.kind == Kind::Prototype {
                return (0..prototype.count).map(|element| self.argument(&prototype, element, name)).collect();
            }
        }
        Err(BtfError::MissingFunction { name: name.to_owned() })
    }

    /// True if the kernel has a function of that name that programs could attach to: inlined ones are absent.
    #[must_use]
    pub fn function_exists(&self, name: &str) -> bool {
        self.index.named(name).any(|id| self.index.record(id).is_ok_and(|record| record.kind == Kind::Function))
    }

    fn structures<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u32, Record)> + 'a {
        self.index
            .named(name)
            .filter_map(|id| self.index.record(id).ok().map(|record| (id, record)))
            .filter(|(_, record)| is_aggregate(record.kind))
    }

    /// Walks `path` behind its first `walked` characters, which name the structure `type_id`.
    fn member_of(&self, mut type_id: u32, path: &str, mut walked: usize) -> Result<Member, BtfError> {
        let mut bit_offset = 0;
        loop {
            let (so_far, rest) = path.split_at_checked(walked).unwrap_or((path, ""));
            let rest = rest.strip_prefix('.').unwrap_or(rest);
            let (member, more) = rest.split_once('.').map_or((rest, false), |(member, _)| (member, true));
            let (structure_id, record) = self.unqualified(type_id, path)?;
            if !is_aggregate(record.kind) {
                return Err(BtfError::NotEmbedded { structure: so_far.to_owned(), member: member.to_owned() });
            }
            let mut visits = MAX_VISITS;
            let found = self.find(structure_id, member.as_bytes(), MAX_DEPTH, &mut visits, path)?;
            let (structure, member_name) = (|| so_far.to_owned(), || member.to_owned());
            let Some(found) = found else {
                return Err(BtfError::MissingMember { structure: structure(), member: member_name() });
            };
            bit_offset += found.bit_offset;
            if let Some(bits) = found.bits {
                return Err(BtfError::BitField { structure: structure(), member: member_name(), bit_offset, bits });
            }
            if !more {
                let offset_bytes = u32::try_from(bit_offset / 8)
                    .map_err(|_| BtfError::Malformed { what: "a member beyond 4 GiB", position: record.trailing })?;
                let size_bytes = self.size_bytes(found.type_id, MAX_CHAIN, path)?;
                return Ok(Member { offset_bytes, size_bytes, shape: self.shape(found.type_id, path)? });
            }
            type_id = found.type_id;
            walked = so_far.len() + 1 + member.len();
        }
    }

    fn argument(&self, prototype: &Record, element: u32, asked: &str) -> Result<Argument, BtfError> {
        let name = self.index.string(self.index.word(prototype, element, 2, 0)?)?;
        let type_id = self.index.word(prototype, element, 2, 1)?;
        let (_, mut named) = self.unqualified(type_id, asked)?;
        if named.kind == Kind::Pointer {
            named = self.unqualified(named.size_or_type, asked)?.1;
        }
        let type_name = self.index.string(named.name_offset)?;
        Ok(Argument {
            name: String::from_utf8_lossy(name).into_owned(),
            shape: self.shape(type_id, asked)?,
            type_name: String::from_utf8_lossy(type_name).into_owned(),
        })
    }
}
