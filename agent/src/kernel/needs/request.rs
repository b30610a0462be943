//! The grammar of a request, and its answer from BTF. agent-ebpf/src/core/kernel explains it to who writes programs.

use super::super::btf::{Bits, Btf, BtfError, Member, Shape};

/// One symbol's name, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// What the daemon itself knows under this name.
    Named(&'a str),
    /// A fact of the kernel's types, and what becomes of a program without it.
    Fact(Fact<'a>, Without<'a>),
    /// The first number if the condition holds, else the second.
    Choice(Condition<'a>, u32, u32),
}

/// A fact of the kernel's types, which is one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    /// The offset of a member, under the first of its spellings that the kernel has; of a bit field that of the aligned word
    /// in which it lies.
    Member {
        /// Bytes that are loaded; none for a member of any size.
        bytes: Option<u32>,
        /// `structure.member[.member]`, the last one with `[ENUMERATION.CONSTANT]` where it is an element of an array, or
        /// with `+member` for each further bit field of that word.
        paths: Vec<&'a str>,
    },
    /// The bits of an aligned word that are a bit field.
    Mask {
        /// Bytes of the word, at most 4.
        bytes: u32,
        /// `structure.member[.member]`.
        path: &'a str,
    },
    /// The value of an enumeration's constant.
    Enumerator {
        /// The enumeration.
        enumeration: &'a str,
        /// Its constant.
        constant: &'a str,
    },
    /// Where a program at the end of a function finds a word: the arguments are in a row, and the result follows.
    FunctionEnd {
        /// The function.
        name: &'a str,
        /// An argument's name; none for the result.
        argument: Option<&'a str>,
    },
    /// How many arguments a tracepoint has.
    Tracepoint {
        /// Its name.
        name: &'a str,
        /// How many it must have at least.
        arguments: u32,
    },
}

/// What becomes of a program if a fact is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Without<'a> {
    /// It is refused.
    Refused,
    /// It is refused, unless this fact is there.
    Other(Fact<'a>),
    /// It does without a feature.
    Feature(&'a str),
    /// It does without this alone.
    ItAlone,
}

/// What decides between two numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// All facts of a feature are there.
    Feature(&'a str),
    /// This fact is there.
    Fact(Fact<'a>),
}

/// Why a fact is missing.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    /// BTF has no such thing.
    #[error(transparent)]
    Types(#[from] BtfError),
    /// The member is narrower than what would be loaded.
    #[error("`{path}` has {found} bytes in this kernel, not {wanted}")]
    Narrow {
        /// Its spellings.
        path: String,
        /// What it has.
        found: u32,
        /// What is loaded.
        wanted: u32,
    },
    /// Bit fields that are to be read at once lie apart.
    #[error("`{path}` lies in no one aligned word of {bytes} bytes in this kernel")]
    Apart {
        /// The bit fields.
        path: String,
        /// The word.
        bytes: u32,
    },
    /// The array is shorter, or it is no array.
    #[error("`{path}` is no array of more than {index} elements in this kernel")]
    NoElement {
        /// The array.
        path: String,
        /// The element's index.
        index: i64,
    },
    /// The tracepoint tells less.
    #[error("the tracepoint `{name}` has {found} arguments in this kernel, not {wanted}")]
    Arguments {
        /// Its name.
        name: String,
        /// How many it has.
        found: usize,
        /// How many are needed.
        wanted: u32,
    },
    /// The function has other arguments.
    #[error("the function `{name}` has no argument `{argument}` in this kernel")]
    NoArgument {
        /// Its name.
        name: String,
        /// The argument.
        argument: String,
    },
    /// The constant does not fit an instruction.
    #[error("the constant `{name}` is {value} in this kernel, which is no number of 32 bits")]
    Wide {
        /// Its name.
        name: String,
        /// What it is.
        value: i64,
    },
}

impl<'a> Request<'a> {
    /// Understands a name; none if it is no request.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Self> {
        if let Some((condition, numbers)) = name.split_once(" ? ") {
            let (then, or) = numbers.split_once(" : ")?;
            let condition = if is_word(condition) {
                Condition::Feature(condition)
            } else {
                Condition::Fact(Fact::parse(condition)?)
            };
            return Some(Self::Choice(condition, then.parse().ok()?, or.parse().ok()?));
        }
        if let Some((fact, other)) = name.split_once(" unless ") {
            return Some(Self::Fact(Fact::parse(fact)?, Without::Other(Fact::parse(other)?)));
        }
        match name.split_once('?') {
            Some((fact, "")) => Some(Self::Fact(Fact::parse(fact)?, Without::ItAlone)),
            Some((fact, feature)) if is_word(feature) => {
                Some(Self::Fact(Fact::parse(fact)?, Without::Feature(feature)))
            }
            Some(_) => None,
            None if is_word(name) => Some(Self::Named(name)),
            None => Some(Self::Fact(Fact::parse(name)?, Without::Refused)),
        }
    }
}

impl<'a> Fact<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Some(constant) = text.strip_prefix("enum ") {
            let (enumeration, constant) = constant.split_once('.')?;
            return (is_word(enumeration) && is_word(constant)).then_some(Self::Enumerator { enumeration, constant });
        }
        let called = text.strip_suffix(')').and_then(|call| call.split_once('('));
        if let Some((name, argument)) = called.and_then(|(name, argument)| Some((name.strip_prefix("u64 ")?, argument)))
        {
            let argument = Some(argument).filter(|argument| !argument.is_empty());
            return (is_word(name) && argument.is_none_or(is_word)).then_some(Self::FunctionEnd { name, argument });
        }
        if let Some((name, arguments)) = called {
            let arguments = arguments.parse().ok()?;
            return is_word(name).then_some(Self::Tracepoint { name, arguments });
        }
        if let Some((width, path)) = text.strip_prefix("mask ").and_then(|mask| mask.split_once(' ')) {
            let bytes = bytes_of(width).filter(|bytes| *bytes <= 4)?;
            return (is_path(path) && !path.contains(['[', '+'])).then_some(Self::Mask { bytes, path });
        }
        let (bytes, paths) = match text.split_once(' ') {
            Some((width, paths)) => (Some(bytes_of(width)?), paths),
            None => (None, text),
        };
        let paths: Vec<&str> = paths.split('|').collect();
        paths.iter().all(|path| is_path(path)).then_some(Self::Member { bytes, paths })
    }

    /// The number, by this kernel's types.
    ///
    /// # Errors
    /// What is missing.
    pub fn answer(&self, btf: &Btf) -> Result<u32, Lack> {
        match self {
            Self::Member { bytes, paths } => {
                let member = first(btf, *bytes, paths)?;
                match bytes {
                    Some(wanted) if member.size_bytes < *wanted => {
                        Err(Lack::Narrow { path: paths.join("` or `"), found: member.size_bytes, wanted: *wanted })
                    }
                    _ => Ok(member.offset_bytes),
                }
            }
            Self::Mask { bytes, path } => {
                let bits = btf.bits(path)?;
                let shift = bits.offset - u64::from(word(&[bits], *bytes, path)?) * 8;
                let mask = (1_u64 << bits.count).wrapping_sub(1) << shift;
                Ok(u32::try_from(mask).unwrap_or(u32::MAX))
            }
            Self::Enumerator { enumeration, constant } => {
                let value = btf.enum_value(enumeration, constant)?;
                u32::try_from(value).map_err(|_| Lack::Wide { name: (*constant).to_owned(), value })
            }
            Self::FunctionEnd { name, argument } => {
                let arguments = btf.function(name)?;
                let at = argument.map_or(Some(arguments.len()), |argument| {
                    arguments.iter().position(|found| found.name == argument)
                });
                let offset_bytes = at.and_then(|at| u32::try_from(at * size_of::<u64>()).ok());
                offset_bytes.ok_or_else(|| Lack::NoArgument {
                    name: (*name).to_owned(),
                    argument: argument.unwrap_or_default().to_owned(),
                })
            }
            Self::Tracepoint { name, arguments } => {
                let found = btf.tracepoint(name)?.len();
                match u32::try_from(found) {
                    Ok(number) if number >= *arguments => Ok(number),
                    _ => Err(Lack::Arguments { name: (*name).to_owned(), found, wanted: *arguments }),
                }
            }
        }
    }
}

/// The first spelling that the kernel has; the refusal is the first one's.
fn first(btf: &Btf, bytes: Option<u32>, paths: &[&str]) -> Result<Member, Lack> {
    let mut refusal = None;
    for path in paths {
        match member(btf, bytes, path) {
            Ok(member) => return Ok(member),
            Err(lack) => refusal = refusal.or(Some(lack)),
        }
    }
    Err(refusal.unwrap_or_else(|| BtfError::Path { path: String::new() }.into()))
}

/// A member, one element of it, or the word of bit fields.
fn member(btf: &Btf, bytes: Option<u32>, path: &str) -> Result<Member, Lack> {
    let Some((array, constant)) = element(path) else {
        return match (btf.member(path), bytes) {
            (Err(BtfError::BitField { .. }), Some(bytes)) => bit_fields(btf, bytes, path),
            (Err(_), Some(bytes)) if path.contains('+') => bit_fields(btf, bytes, path),
            (answer, _) => Ok(answer?),
        };
    };
    let (enumeration, constant) = constant.split_once('.').unwrap_or((constant, ""));
    let index = btf.enum_value(enumeration, constant)?;
    let member = btf.member(array)?;
    let number = u32::try_from(index).ok();
    match (member.shape, number) {
        (Shape::Array { element_bytes, elements }, Some(number)) if number < elements => Ok(Member {
            offset_bytes: member.offset_bytes + number * element_bytes,
            size_bytes: element_bytes,
            ..member
        }),
        _ => Err(Lack::NoElement { path: array.to_owned(), index }),
    }
}

/// The aligned word in which these bit fields of one structure lie.
fn bit_fields(btf: &Btf, bytes: u32, path: &str) -> Result<Member, Lack> {
    let (structure, fields) = path.rsplit_once('.').unwrap_or((path, ""));
    let fields: Result<Vec<Bits>, BtfError> =
        fields.split('+').map(|field| btf.bits(&format!("{structure}.{field}"))).collect();
    let offset_bytes = word(&fields?, bytes, path)?;
    Ok(Member { offset_bytes, size_bytes: bytes, shape: Shape::Integer { signed: false } })
}

/// Where the aligned word of so many bytes begins in which all of these bits lie.
fn word(fields: &[Bits], bytes: u32, path: &str) -> Result<u32, Lack> {
    let apart = || Lack::Apart { path: path.to_owned(), bytes };
    let word_bits = u64::from(bytes) * 8;
    let begin = fields.iter().map(|bits| bits.offset).min().ok_or_else(apart)? / word_bits * word_bits;
    let end = fields.iter().map(|bits| bits.offset + u64::from(bits.count)).max().ok_or_else(apart)?;
    if end > begin + word_bits {
        return Err(apart());
    }
    u32::try_from(begin / 8).map_err(|_| apart())
}

/// Array and index of an element's path.
fn element(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix(']')?.split_once('[')
}

fn bytes_of(width: &str) -> Option<u32> {
    [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)].into_iter().find(|(name, _)| *name == width).map(|(_, bytes)| bytes)
}

fn is_path(path: &str) -> bool {
    let (members, constant) = element(path).map_or((path, None), |(array, index)| (array, Some(index)));
    let are_words = |text: &str| text.contains('.') && text.split('.').all(is_word);
    let Some((structure, fields)) = members.rsplit_once('.') else { return false };
    let are_members = structure.split('.').chain(fields.split('+')).all(is_word);
    are_members && constant.is_none_or(|constant| are_words(constant) && constant.matches('.').count() == 1)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
