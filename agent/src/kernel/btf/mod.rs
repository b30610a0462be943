//! Answers about the running kernel's types, from its BTF: where a member lies, what an enumerator is
//! worth, which arguments a tracepoint passes, whether a function exists.
//!
//! Pure: bytes in, answers out ([`Btf::read_file`] alone touches a file). It is not a general BTF library:
//! no writing, no relocations. The loader calls it once at start, writes the
//! answers into the constants of the kernel programs and drops it, so it keeps the raw bytes, one position
//! per type and one hash per name, and no strings of its own.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html> and include/uapi/linux/btf.h.

mod answers;
mod index;
mod types;

use std::io;
use std::path::{Path, PathBuf};

use index::{Index, Kind};

/// The types of one kernel, indexed for questions by name.
#[derive(Debug)]
pub struct Btf {
    index: Index,
}

/// Where a member lies in the structure that the question started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost structure.
    pub offset_bytes: u32,
    /// Bytes that the member takes; an array's whole length.
    pub size_bytes: u32,
    /// What is stored there.
    pub shape: Shape,
}

impl Member {
    /// True if the member holds an address.
    #[must_use]
    pub fn is_pointer(&self) -> bool {
        self.shape == Shape::Pointer
    }
}

/// Where a member lies in bits, be it a bit field or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// Bits from the start of the outermost structure.
    pub offset: u64,
    /// How many there are.
    pub count: u32,
}

/// The class of a type, behind all typedefs and qualifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// No value; also the mark of a variable argument list.
    Void,
    /// `bool`.
    Boolean,
    /// Any other integer or character.
    Integer {
        /// True for a type that can be negative.
        signed: bool,
    },
    /// A floating-point number.
    Float,
    /// An enumeration, stored as an integer.
    Enumeration,
    /// An address.
    Pointer,
    /// Elements of one size, in a row; those of all dimensions.
    Array {
        /// Size of one element.
        element_bytes: u32,
        /// How many there are.
        elements: u32,
    },
    /// A structure, embedded whole.
    Structure,
    /// A union, embedded whole.
    Union,
    /// Anything else: a forward declaration, a function.
    Other,
}

/// One argument that a tracepoint passes to its programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The parameter's name in the kernel source; empty if BTF does not carry it.
    pub name: String,
    /// The class of its type.
    pub shape: Shape,
    /// The type's own name behind typedefs and qualifiers (`task_struct`, `_Bool`, `unsigned int`); for a
    /// pointer the name of what it points to. Empty for an unnamed type and for `void`.
    pub type_name: String,
}

/// Why a question about the kernel's types has no answer.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("cannot read BTF from {}; the kernel needs CONFIG_DEBUG_INFO_BTF=y and /sys must be visible", path.display())]
    Read {
        /// The file asked for.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The bytes are not BTF of this byte order and version, or they contradict themselves.
    #[error("cannot parse BTF: {what} at byte {position}; the file is damaged or is not this machine's kernel BTF")]
    Malformed {
        /// What is wrong there.
        what: &'static str,
        /// Byte position in the file.
        position: usize,
    },
    /// A kind of type that this reader does not know and that the file does not describe.
    #[error(
        "cannot parse BTF: type {type_id} has the unknown kind {kind}; the kernel is newer than this program: update it"
    )]
    UnknownKind {
        /// The kind's number.
        kind: u32,
        /// The type that has it.
        type_id: usize,
    },
    /// Types nest or refer to each other without an end.
    #[error("cannot resolve `{name}` in BTF: its types nest too deep or in a circle; the file is damaged")]
    Endless {
        /// The member or type asked for.
        name: String,
    },
    /// The question itself is not of the form `structure.member`.
    #[error("cannot resolve `{path}` in BTF: write it as structure.member[.member]")]
    Path {
        /// The question.
        path: String,
    },
    /// No structure or union of that name.
    #[error("this kernel has no structure `{name}`")]
    MissingStructure {
        /// Its name.
        name: String,
    },
    /// The structure exists, the member does not.
    #[error("this kernel has no member `{member}` in `{structure}`")]
    MissingMember {
        /// The structure, with the way to it: `task_struct.se`.
        structure: String,
        /// The member that is not there.
        member: String,
    },
    /// The path goes on behind a member that is a pointer, an array or a number.
    #[error(
        "cannot resolve `{member}` behind `{structure}` in BTF: that is no embedded structure; ask for the pointed-to structure by its own name"
    )]
    NotEmbedded {
        /// The path up to the member that ends it.
        structure: String,
        /// The member asked for behind it.
        member: String,
    },
    /// The member exists and has no byte offset.
    #[error(
        "cannot give a byte offset of `{structure}.{member}`: it is a bit field ({bits} bits from bit {bit_offset}); read the bytes around it"
    )]
    BitField {
        /// The structure, with the way to it.
        structure: String,
        /// The member.
        member: String,
        /// Bits from the start of the outermost structure.
        bit_offset: u64,
        /// Width in bits.
        bits: u32,
    },
    /// No enumeration of that name, or none with that constant.
    #[error("this kernel has no constant `{enumerator}` in `enum {enumeration}`")]
    MissingEnumerator {
        /// The enumeration.
        enumeration: String,
        /// The constant.
        enumerator: String,
    },
    /// No enumeration of that name.
    #[error("this kernel has no `enum {name}`")]
    MissingEnumeration {
        /// Its name.
        name: String,
    },
    /// No such tracepoint.
    #[error("this kernel has no tracepoint `{name}` that BPF programs can attach to with types")]
    MissingTracepoint {
        /// Its name.
        name: String,
    },
    /// No such function, or only inlined ones.
    #[error("this kernel has no function `{name}` that BPF programs can attach to")]
    MissingFunction {
        /// Its name.
        name: String,
    },
}

impl Btf {
    /// Reads and indexes a BTF file, usually `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// [`BtfError::Read`], or what [`Btf::parse`] finds.
    pub fn read_file(path: &Path) -> Result<Self, BtfError> {
        let bytes = std::fs::read(path).map_err(|source| BtfError::Read { path: path.to_owned(), source })?;
        Self::parse(bytes)
    }

    /// Indexes BTF in little-endian byte order.
    ///
    /// # Errors
    /// [`BtfError::Malformed`] and [`BtfError::UnknownKind`]. Bad names and type references that no question
    /// meets are not looked for here.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        Index::build(bytes).map(|index| Self { index })
    }

    /// BTF in which the types have the same numbers and nothing is described but what programs are attached to: tracepoints,
    /// iterators and these functions, by their names. It takes a tenth of the memory of all types to whoever reads it.
    #[must_use]
    pub fn hooks(&self, functions: &[&str]) -> Vec<u8> {
        let is_hook = |kind, name: &[u8]| match kind {
            Kind::Typedef => name.starts_with(b"btf_trace_"),
            Kind::Function => {
                name.starts_with(b"bpf_iter_") || functions.iter().any(|function| function.as_bytes() == name)
            }
            _ => false,
        };
        self.index.outline(is_hook)
    }

    /// These types and those of a kernel module, whose file in `/sys/kernel/btf` goes on where the kernel's own ends.
    ///
    /// # Errors
    /// As for [`Btf::parse`].
    pub fn with_module(&self, module: &[u8]) -> Result<Self, BtfError> {
        Self::parse(self.index.joined(module)?)
    }
}

#[cfg(test)]
pub(super) mod tests;
