//! What may happen to the fleet, drawn at random.

use proptest::prelude::*;

/// Something that happens, before the world fills in generations and waiters.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    Start {
        manual: bool,
        force: bool,
        wait: bool,
        timeout: Option<u8>,
    },
    Stop {
        manual: bool,
        now: bool,
    },
    Restart {
        manual: bool,
        now: bool,
    },
    Signed {
        manual: bool,
        what: u8,
        back: u8,
    },
    Pass(u16),
    Slept(u16),
    Short(bool),
    /// The files of all models are missing from now on, or back.
    Missing(bool),
    /// Whether starts from now on need other machines to agree.
    Apart(bool),
    Answer {
        manual: bool,
        agreed: bool,
        back: u8,
    },
    Retry {
        manual: bool,
    },
    Yield {
        manual: bool,
    },
    Return {
        manual: bool,
    },
    Reload {
        keep_manual: bool,
        swap: bool,
    },
    Shutdown {
        now: bool,
    },
}

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    prop_oneof![
        4 => (any::<bool>(), any::<bool>(), any::<bool>(), any::<Option<u8>>())
            .prop_map(|(manual, force, wait, timeout)| H::Start { manual, force, wait, timeout }),
        4 => any::<(bool, bool)>().prop_map(|(manual, now)| H::Stop { manual, now }),
        3 => any::<(bool, bool)>().prop_map(|(manual, now)| H::Restart { manual, now }),
        12 => (any::<bool>(), any::<u8>(), 0u8..3).prop_map(|(manual, what, back)| H::Signed { manual, what, back }),
        6 => any::<u16>().prop_map(H::Pass),
        1 => any::<u16>().prop_map(H::Slept),
        1 => any::<bool>().prop_map(H::Short),
        1 => any::<bool>().prop_map(H::Missing),
        1 => any::<bool>().prop_map(H::Apart),
        3 => (any::<bool>(), any::<bool>(), 0u8..2)
            .prop_map(|(manual, agreed, back)| H::Answer { manual, agreed, back }),
        1 => any::<bool>().prop_map(|manual| H::Retry { manual }),
        1 => any::<bool>().prop_map(|manual| H::Yield { manual }),
        1 => any::<bool>().prop_map(|manual| H::Return { manual }),
        1 => any::<(bool, bool)>().prop_map(|(keep_manual, swap)| H::Reload { keep_manual, swap }),
        1 => any::<bool>().prop_map(|now| H::Shutdown { now }),
    ]
}

/// As [`happening`], with shorter passes and sleeps and without a shutdown, for long histories.
pub(super) fn in_passing() -> impl Strategy<Value = Happening> {
    happening()
        .prop_map(|happening| match happening {
            Happening::Pass(seconds) => Happening::Pass(seconds % 60),
            Happening::Slept(seconds) => Happening::Slept(seconds % 600),
            other => other,
        })
        .prop_filter("the end is another test's", |happening| {
            !matches!(happening, Happening::Shutdown { .. })
        })
}
