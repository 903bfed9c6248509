//! What the launcher does on a CUDA card, with the card's own work done by the CPU.

use std::path::Path;
use std::process::Command;

use crate::real;

#[test]
fn masks_are_converted_once_and_give_the_same_numbers() {
    let held = real::promises_held(include_str!("card.py"));
    assert_eq!(held, ["equal", "once for all layers", "others unchanged"]);
}

#[test]
fn a_card_gets_what_was_kept_through_locked_memory_or_as_mlx_loads_it() {
    let held = real::promises_held(include_str!("prompt_card.py"));
    let expected = [
        "kind plain",
        "kind sliding",
        "kind quantised",
        "kind hybrid",
        "kind list",
        "kind odd",
        "no memory to lock",
        "unfit card",
        "wrong layout",
    ];
    assert_eq!(held, expected);
}

/// What measures both on a card runs anywhere.
#[test]
fn the_measurement_compares_both_ways_and_finds_them_equal() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench-card");
    let arguments = ["--steps", "64,256", "--ends", "256,1024"];
    let output = Command::new(real::python()).arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("| 256 | 1,024 |") && said.contains(" read as MLX loads files: "), "{said}");
}
