//! What the kernel programs need to know about the running kernel, and what its BTF answers.
//!
//! The object itself says what it needs, program by program: by the names of the symbols that it does not define
//! (`programs` reads them, `request` has their grammar, agent-ebpf/src/core/kernel tells it to who writes programs). Here
//! they get their numbers, or a program its refusal, which names what is missing. Pure. The loader calls it once at start;
//! `immediates` writes the numbers into the instructions.

mod programs;
mod request;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::request::{Condition, Without};
pub use self::{
    programs::{Program, programs},
    request::{Fact, Lack, Request},
};
use super::btf::Btf;

/// Why the needs of an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NeedsError {
    /// It is no object.
    #[error("the BPF object is damaged: build podlens anew")]
    Damaged(#[from] object::Error),
    /// A name follows no grammar, or nobody knows it.
    #[error(
        "the BPF object needs `{request}`, which this daemon does not know: daemon and object are from different builds"
    )]
    Unknown {
        /// The name.
        request: String,
    },
}

/// The answers of one kernel to all that the programs need.
#[derive(Debug)]
pub struct Answers {
    btf: Btf,
    numbers: HashMap<String, u32>,
    /// Those of which some program runs at the end.
    functions: BTreeSet<String>,
    /// By program: what it needs and lacks, in words.
    refusals: BTreeMap<String, String>,
    /// By feature: what it lacks, if it lacks something.
    features: HashMap<String, Option<String>>,
}

impl Answers {
    /// Asks BTF for all that these programs need; `node` is what the daemon itself knows, by name.
    ///
    /// # Errors
    /// A name is no request.
    pub fn new(programs: &[Program], btf: Btf, node: &[(&str, u32)]) -> Result<Self, NeedsError> {
        let mut answers = Self {
            btf,
            numbers: HashMap::new(),
            functions: BTreeSet::new(),
            refusals: BTreeMap::new(),
            features: HashMap::new(),
        };
        let mut choices = Vec::new();
        let mut missing = HashMap::new();
        for name in programs.iter().flat_map(|program| &program.requests) {
            let unknown = || NeedsError::Unknown { request: name.clone() };
            let number = match Request::parse(name).ok_or_else(unknown)? {
                Request::Named(name) => node.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?.1,
                Request::Choice(condition, then, or) => {
                    choices.push((name, condition, then, or));
                    continue;
                }
                Request::Fact(fact, without) => {
                    if let Fact::FunctionEnd { name, .. } = fact {
                        answers.functions.insert(name.to_owned());
                    }
                    let answer = fact.answer(&answers.btf);
                    let lack = answer.as_ref().err().map(ToString::to_string);
                    match (lack, without) {
                        (lack, Without::Feature(feature)) => {
                            let known = answers.features.entry(feature.to_owned()).or_default();
                            *known = known.take().or(lack);
                        }
                        (Some(_), Without::Other(other)) if other.answer(&answers.btf).is_ok() => {}
                        (Some(lack), Without::Other(_) | Without::Refused) => {
                            missing.insert(name, lack);
                        }
                        (_, _) => {}
                    }
                    let Ok(number) = answer else { continue };
                    number
                }
            };
            answers.numbers.insert(name.clone(), number);
        }
        for (name, condition, then, or) in choices {
            let is_there = match condition {
                Condition::Feature(feature) => {
                    let unknown = || NeedsError::Unknown { request: name.clone() };
                    answers.features.get(feature).ok_or_else(unknown)?.is_none()
                }
                Condition::Fact(fact) => fact.answer(&answers.btf).is_ok(),
            };
            answers.numbers.insert(name.clone(), if is_there { then } else { or });
        }
        for program in programs {
            let lacks: Vec<String> =
                program.requests.iter().filter_map(|name| Some(format!("`{name}`: {}", missing.get(name)?))).collect();
            if !lacks.is_empty() {
                answers.refusals.insert(program.name.clone(), format!("{} needs {}", program.name, lacks.join(", ")));
            }
        }
        Ok(answers)
    }

    /// Each request that has a number, and the number. A request without one belongs to a program that is refused, or to
    /// a branch that another number removes.
    pub fn numbers(&self) -> impl Iterator<Item = (&str, u32)> {
        self.numbers.iter().map(|(name, number)| (name.as_str(), *number))
    }

    /// What the program needs and this kernel lacks, in words; none if it can be loaded.
    #[must_use]
    pub fn refusal(&self, program: &str) -> Option<&str> {
        self.refusals.get(program).map(String::as_str)
    }

    /// Why the programs do without this feature, or why this request has no answer, in words; none if all is there.
    #[must_use]
    pub fn lack(&self, wish: &str) -> Option<String> {
        match Request::parse(wish) {
            Some(Request::Fact(fact, _)) => fact.answer(&self.btf).err().map(|lack| lack.to_string()),
            _ => self.features.get(wish).cloned().flatten(),
        }
    }

    /// BTF of what the programs are attached to, and of nothing else: [`Btf::hooks`].
    #[must_use]
    pub fn hooks(&self) -> Vec<u8> {
        let functions: Vec<&str> = self.functions.iter().map(String::as_str).collect();
        self.btf.hooks(&functions)
    }

    /// The kernel's types.
    #[must_use]
    pub fn btf(&self) -> &Btf {
        &self.btf
    }
}

#[cfg(test)]
mod tests;
