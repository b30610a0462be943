//! How a collector fares on this node: the pipeline finds out, the agent's own metrics and events tell it.

/// What became of a collector on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It measures everything.
    Running,
    /// It measures, but something is missing.
    Degraded(String),
    /// The kernel or the process lacks something that it needs.
    Unsupported(String),
    /// It should work here and does not.
    Failed(String),
    /// The configuration switches it off.
    Disabled,
}

impl State {
    /// The states' names, as in the label `state`.
    pub const NAMES: [&'static str; 5] = ["running", "degraded", "unsupported", "failed", "disabled"];

    /// Its own name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Degraded(_) => "degraded",
            Self::Unsupported(_) => "unsupported",
            Self::Failed(_) => "failed",
            Self::Disabled => "disabled",
        }
    }

    /// Why, where there is something to say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Degraded(reason) | Self::Unsupported(reason) | Self::Failed(reason) => Some(reason),
            Self::Running | Self::Disabled => None,
        }
    }

    /// The same state with what `of` makes of its reason.
    #[must_use]
    pub fn map_reason(self, of: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Degraded(reason) => Self::Degraded(of(reason)),
            Self::Unsupported(reason) => Self::Unsupported(of(reason)),
            Self::Failed(reason) => Self::Failed(of(reason)),
            Self::Running | Self::Disabled => self,
        }
    }

    /// It delivers values.
    #[must_use]
    pub fn delivers(&self) -> bool {
        matches!(self, Self::Running | Self::Degraded(_))
    }
}
