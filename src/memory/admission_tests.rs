use proptest::prelude::*;

use std::collections::BTreeMap;

use super::*;
use crate::host::{Footprint, MemoryReading};
use crate::memory::budget::in_force;
use crate::memory::fixtures::needs;
use crate::memory::gpu::GpuLimit;
use crate::memory::platform::Platform;
use crate::registry::Reserve;

fn reserve(name: &str, gb: u64, program: Option<&str>) -> Reserve {
    Reserve {
        name: name.into(),
        size: Bytes::gb(gb),
        while_running: program.into_iter().map(str::to_owned).collect(),
    }
}

fn laptop() -> Ledger {
    Ledger::new(Bytes::gb(128), vec![reserve("macOS + apps", 10, None), reserve("Civ V", 10, Some("Civ5XP"))])
}

struct Machine {
    reading: MemoryReading,
    footprints: BTreeMap<String, Footprint>,
    programs: Vec<String>,
    /// The GPU limit that `mlxctl setup` noted.
    noted: Option<Bytes>,
}

impl Machine {
    fn new(available_gb: u64) -> Self {
        let reading = MemoryReading {
            available: Some(Bytes::gb(available_gb)),
            gpu_limit: Some(Bytes::gb(115)),
            ..MemoryReading::default()
        };
        Self { reading, footprints: BTreeMap::new(), programs: Vec::new(), noted: None }
    }

    fn live(&self) -> Live<'_> {
        Live {
            reading: &self.reading,
            footprints: &self.footprints,
            programs: &self.programs,
            platform: Platform::Metal,
            gpu_limit: GpuLimit::of(Platform::Metal, &self.reading, self.noted),
        }
    }
}

fn grant(ledger: &mut Ledger, model: &str, gb: u64) {
    assert!(ledger.enter(model, Grant { bytes: Bytes::gb(gb), forced: false }));
}

fn refused(ledger: &Ledger, machine: &Machine, gb: u64) -> Refusal {
    *judge(ledger, machine.live(), "70b", Some(&needs(Bytes::gb(gb)))).unwrap_err()
}

#[test]
fn a_start_that_fits_is_granted_its_whole_reserve() {
    let grant = judge(&laptop(), Machine::new(110).live(), "70b", Some(&needs(Bytes::gb(60)))).unwrap();
    assert_eq!(grant, Grant { bytes: Bytes::gb(60), forced: false });
}

#[test]
fn what_a_running_model_was_granted_and_has_not_taken_is_not_free() {
    let mut ledger = laptop();
    grant(&mut ledger, "32b", 40);
    let mut machine = Machine::new(95);
    machine.footprints.insert("32b".into(), Footprint { bytes: Bytes::gb(20), ..Footprint::default() });
    let refusal = refused(&ledger, &machine, 76);
    let live = refusal.checks.iter().find(|check| check.name == "available now").unwrap();
    assert_eq!((live.free, live.missing), (75_000_000_000, Bytes::gb(1)));
}

#[test]
fn the_game_is_named_while_it_is_away_and_counted_while_it_runs() {
    let mut ledger = laptop();
    grant(&mut ledger, "32b", 40);
    let mut machine = Machine::new(118);
    assert!(judge(&ledger, machine.live(), "70b", Some(&needs(Bytes::gb(70)))).is_ok());
    let away = refused(&ledger, &machine, 79);
    assert!(away.checks[0].lines.iter().any(|line| line.bytes == 0 && line.name.contains("Civ V")), "{away}");
    machine.programs.push("civ5xp".into());
    let refusal = refused(&ledger, &machine, 70);
    assert_eq!(refusal.checks[0].missing, Bytes::gb(2), "{refusal}");
}

#[test]
fn a_refusal_says_what_would_make_room() {
    let mut ledger = laptop();
    grant(&mut ledger, "32b", 40);
    let mut machine = Machine::new(70);
    machine.programs.push("Civ5XP".into());
    machine.footprints.insert("32b".into(), Footprint { bytes: Bytes::gb(38), ..Footprint::default() });
    let refusal = refused(&ledger, &machine, 75);
    let acts: Vec<(&str, Bytes, bool)> =
        refusal.remedies.iter().map(|remedy| (remedy.act.as_str(), remedy.frees, remedy.enough)).collect();
    assert_eq!(acts, [("stop 32b", Bytes::gb(40), true), ("quit Civ V", Bytes::gb(10), true)]);
    insta::assert_snapshot!(format!("{}\n\n{refusal}\n{}", refusal.sentence(), refusal.hint()), @r"
    70b needs 75.0 GB, 7.00 GB more than there is

    plan:
      memory of this machine    128 GB
      macOS + apps, reserved  −10.0 GB
      Civ V, reserved         −10.0 GB
      32b, granted            −40.0 GB
      = left                   68.0 GB
      70b needs               −75.0 GB
      = missing                7.00 GB

    available now:
      available now         70.0 GB
      32b, may still take  −2.00 GB
      = left                68.0 GB
      70b needs            −75.0 GB
      = missing             7.00 GB

    mlxctl stop 32b  (frees 40.0 GB)
    quit Civ V  (frees 10.0 GB)
    mlxctl start 70b --force  (at the risk of swapping)
    ");
}

#[test]
fn trimming_helps_where_a_model_takes_more_than_it_was_granted() {
    let mut ledger = laptop();
    grant(&mut ledger, "32b", 40);
    let mut machine = Machine::new(60);
    machine.footprints.insert("32b".into(), Footprint { bytes: Bytes::gb(49), ..Footprint::default() });
    let refusal = refused(&ledger, &machine, 65);
    let trim = refusal.remedies.iter().find(|remedy| remedy.act == "trim 32b").unwrap();
    assert_eq!((trim.frees, trim.enough), (Bytes::gb(9), true));
}

#[test]
fn the_gpus_limit_holds_for_all_models_together() {
    let mut ledger = laptop();
    grant(&mut ledger, "32b", 20);
    let mut machine = Machine::new(128);
    machine.reading.gpu_limit = Some(Bytes::gb(75));
    let refusal = refused(&ledger, &machine, 60);
    assert_eq!(refusal.checks.iter().find(|check| check.name == "GPU limit").unwrap().missing, Bytes::gb(5));
}

/// `iogpu.wired_limit_mb` is 0 on nearly every Mac: then the limit is what MLX reported during setup.
#[test]
fn a_mac_whose_owner_set_no_limit_is_held_to_the_one_that_setup_noted() {
    let mut ledger = laptop();
    grant(&mut ledger, "32b", 20);
    let mut machine = Machine::new(128);
    machine.reading.gpu_limit = None;
    let judged = |machine: &Machine| judge(&ledger, machine.live(), "70b", Some(&needs(Bytes::gb(60))));
    assert!(judged(&machine).is_ok(), "no limit is known");
    machine.noted = Some(Bytes::gb(75));
    let refusal = judged(&machine).unwrap_err();
    let check = refusal.checks.iter().find(|check| check.name == "GPU limit").unwrap();
    assert_eq!(check.missing, Bytes::gb(5));
    assert_eq!(check.lines[0].name, "what the GPU may hold (macOS's default, from mlxctl setup)");
    machine.reading.gpu_limit = Some(Bytes::gb(90));
    assert!(judged(&machine).is_ok(), "the owner has raised it since");
}

#[test]
fn on_a_card_the_cards_memory_counts() {
    let mut ledger = laptop();
    grant(&mut ledger, "32b", 40);
    let mut machine = Machine::new(1);
    machine.reading.gpu_limit = Some(Bytes::gb(80));
    machine.reading.gpu_free = Some(Bytes::gb(50));
    machine
        .footprints
        .insert("32b".into(), Footprint { bytes: Bytes::gb(2), peak: None, gpu: Some(Bytes::gb(30)) });
    let gpu_limit = GpuLimit::of(Platform::Cuda, &machine.reading, None);
    let live = Live { platform: Platform::Cuda, gpu_limit, ..machine.live() };
    assert!(judge(&ledger, live, "70b", Some(&needs(Bytes::gb(40)))).is_ok());
    let refusal = judge(&ledger, live, "70b", Some(&needs(Bytes::gb(41)))).unwrap_err();
    assert_eq!(refusal.missing(), Bytes::gb(1));
}

#[test]
fn an_unknown_size_and_a_model_that_already_runs_are_refused() {
    let mut ledger = laptop();
    let machine = Machine::new(100);
    assert_eq!(judge(&ledger, machine.live(), "70b", None).unwrap_err().why, Why::Unknown);
    grant(&mut ledger, "70b", 1);
    assert!(!ledger.enter("70b", Grant { bytes: Bytes::gb(1), forced: true }), "never twice");
    let again = judge(&ledger, machine.live(), "70b", Some(&needs(Bytes::gb(1)))).unwrap_err();
    assert_eq!(again.why, Why::AlreadyGranted);
}

#[derive(Debug, Clone)]
enum Step {
    Start(usize, u64),
    Stop(usize),
    Grow(usize, u64),
    Available(u64),
    Game(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..6_usize, 0..90_u64).prop_map(|(model, gb)| Step::Start(model, gb)),
        2 => (0..6_usize).prop_map(Step::Stop),
        1 => (0..6_usize, 0..90_u64).prop_map(|(model, gb)| Step::Grow(model, gb)),
        1 => (0..140_u64).prop_map(Step::Available),
        1 => any::<bool>().prop_map(Step::Game),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Starts, stops and refusals in any order: reservations stay within the budget, and every refusal adds up to
    /// the byte.
    #[test]
    fn reserved_bytes_never_pass_the_budget(steps in steps(), odd in 0_u64..1_000_000) {
        let mut ledger = laptop();
        let mut machine = Machine::new(110);
        for step in steps {
            match step {
                Step::Start(model, gb) => {
                    let name = model.to_string();
                    let need = Bytes::gb(gb) + Bytes(odd);
                    match judge(&ledger, machine.live(), &name, Some(&needs(need))) {
                        Ok(grant) => {
                            prop_assert!(!ledger.granted().contains_key(&name), "granted twice");
                            prop_assert!(ledger.enter(&name, grant));
                            let in_force: Bytes = ledger.reserves.iter()
                                .filter(|r| in_force(r, &machine.programs)).map(|r| r.size).sum();
                            prop_assert!(ledger.sum() + in_force <= ledger.total);
                            prop_assert!(ledger.sum() <= Bytes::gb(115));
                        }
                        Err(refusal) => {
                            prop_assert!(refusal.why == Why::AlreadyGranted || refusal.missing() > Bytes::ZERO);
                            for check in &refusal.checks {
                                let free: i128 = check.lines.iter().map(|line| line.bytes).sum();
                                prop_assert_eq!(free, check.free);
                                let missing = i128::from(check.need.0) - free;
                                prop_assert_eq!(i128::from(check.missing.0), missing.max(0));
                            }
                        }
                    }
                }
                Step::Stop(model) => {
                    machine.footprints.remove(&model.to_string());
                    ledger.release(&model.to_string());
                }
                Step::Grow(model, gb) => {
                    let footprint = Footprint { bytes: Bytes::gb(gb), ..Footprint::default() };
                    machine.footprints.insert(model.to_string(), footprint);
                }
                Step::Available(gb) => machine.reading.available = Some(Bytes::gb(gb)),
                Step::Game(runs) => machine.programs = if runs { vec!["Civ5XP".into()] } else { Vec::new() },
            }
        }
    }
}
