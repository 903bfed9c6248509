//! When a model was last of use.

use crate::clock::Moment;

/// What is known of a model's use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::supervisor) struct Used {
    /// The last sign of use, across supervisors of this boot.
    pub last: Option<Moment>,
    /// The gate's mark of activity then.
    pub mark: u64,
}
