//! What the launcher does on a CUDA card, with the card's own work done by the CPU.

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
