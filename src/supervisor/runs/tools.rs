//! What every slot needs.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::news::Report;
use crate::host::Host;
use crate::units::Percent;

#[derive(Clone)]
pub(super) struct Tools {
    pub host: Arc<dyn Host>,
    /// Our own binary, which is also the exec step of backends.
    pub binary: Arc<Path>,
    pub report: Report,
    /// The pace of all backends; `None`: no limit.
    pub pace: watch::Receiver<Option<Percent>>,
}
