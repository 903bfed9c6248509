//! Many clients at once: every answer arrives, and together they are consistent. The history of requests and answers
//! must have an order, within the duration of each command, in which one model that does one thing at a time would have
//! answered the same (Herlihy and Wing's linearizability, found with Wing and Gong's search).

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::dice::{Dice, number};
use crate::support::{Entry, Instance, try_control};

/// The outcome of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// `start`: ready as this process.
    Started(i64),
    /// `restart`: ready as this process, which did not exist when it was requested. Two that overlap may share it.
    Restarted(i64),
    /// `stop`: the run is gone, or there was none.
    Stopped,
    /// `status`: ready as this process.
    SeenReady(i64),
    /// `status`: down.
    SeenDown,
}

/// A command that was answered: when it was sent, when it was answered, its outcome.
#[derive(Debug, Clone, Copy)]
struct Call {
    from: Duration,
    to: Duration,
    answer: Answer,
}

/// The model between two commands: down, or ready as a process.
type State = Option<i64>;

impl Answer {
    fn process(self) -> Option<i64> {
        match self {
            Self::Started(pid) | Self::Restarted(pid) | Self::SeenReady(pid) => Some(pid),
            Self::Stopped | Self::SeenDown => None,
        }
    }

    /// The state after it, if it is possible in `state`. A replaced process never comes back.
    fn apply(self, state: State) -> Option<State> {
        match self {
            Self::Started(pid) => (state.is_none() || state == Some(pid)).then_some(Some(pid)),
            Self::Restarted(pid) => Some(Some(pid)),
            Self::Stopped => Some(None),
            Self::SeenReady(pid) => (state == Some(pid)).then_some(state),
            Self::SeenDown => state.is_none().then_some(state),
        }
    }
}

/// Whether a restart resulted in a process that existed before it was requested.
fn is_stale(call: &Call, calls: &[Call]) -> bool {
    let Answer::Restarted(pid) = call.answer else { return false };
    calls.iter().any(|other| other.to < call.from && other.answer.process() == Some(pid))
}

/// An order of the calls that explains all answers; else the longest part of one that was found.
fn linearize(calls: &[Call]) -> Result<(), usize> {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| call.from);
    if let Some(stale) = calls.iter().position(|call| is_stale(call, &calls)) {
        return Err(stale);
    }
    // Done so far: all before `low`, and those in the set; few, because only a few overlap.
    let mut seen = HashSet::new();
    let mut stack = vec![(0_usize, Vec::<usize>::new(), None)];
    let mut best = 0;
    while let Some((mut low, mut done, state)) = stack.pop() {
        while let Some(at) = done.iter().position(|index| *index == low) {
            done.swap_remove(at);
            low += 1;
        }
        best = best.max(low);
        if low == calls.len() {
            return Ok(());
        }
        done.sort_unstable();
        if !seen.insert((low, done.clone(), state)) {
            continue;
        }
        // A call that was answered must come before all that were sent later.
        let open = || (low..calls.len()).filter(|index| !done.contains(index));
        let first = open().take(64).map(|index| calls[index].to).min().unwrap_or_default();
        let next: Vec<usize> = open().take_while(|index| calls[*index].from <= first).collect();
        for &index in next.iter().rev() {
            if let Some(after) = calls[index].answer.apply(state) {
                let mut done = done.clone();
                done.push(index);
                // A call that changes nothing is best done at once: no other choice is worth trying.
                let read = matches!(calls[index].answer, Answer::SeenDown | Answer::SeenReady(_));
                if read {
                    stack.push((low, done, after));
                    break;
                }
                stack.push((low, done, after));
            }
        }
    }
    Err(best)
}

/// One command on the control socket. `None`: another client's command overrode it, or the model is starting.
fn ask(instance: &Instance, what: usize) -> Option<Answer> {
    let socket = instance.root().join("run/mlxctl.sock");
    let (method, path, body) = match what {
        0 => ("POST", "/v1/models/m/start", r#"{"wait":true}"#),
        1 => ("POST", "/v1/models/m/stop", "{}"),
        2 => ("POST", "/v1/models/m/restart", "{}"),
        _ => ("GET", "/v1/status", ""),
    };
    let answer = try_control(&socket, method, path, body).expect("an answer to every command");
    let document = |line: &str| serde_json::from_str::<Value>(line).ok();
    if what > 2 {
        let status = document(answer.split_once("\r\n\r\n")?.1).expect("a status");
        let model = &status["models"][0];
        return match model["state"].as_str() {
            Some("ready") => Some(Answer::SeenReady(model["pid"].as_i64()?)),
            Some("stopped") => Some(Answer::SeenDown),
            _ => None,
        };
    }
    let last = answer.lines().filter_map(document).rfind(Value::is_object).expect("an outcome");
    let Some(done) = last.get("done") else {
        let error = last.get("error").unwrap_or(&last);
        assert_eq!(error["code"], "refused", "only another client's command overrides it: {last}");
        return None;
    };
    let pid = done["model"]["pid"].as_i64();
    match what {
        1 => Some(Answer::Stopped),
        // The document describes the moment after; by then another client's command may have taken effect.
        _ if done["model"]["state"] != "ready" => None,
        0 => pid.map(Answer::Started),
        _ => pid.map(Answer::Restarted),
    }
}

#[test]
fn the_answers_to_24_clients_have_an_order_that_explains_them() {
    let length = Duration::from_secs(number("MLXCTL_CLIENTS_SECONDS", 5));
    let instance = Instance::fake(vec![Entry::new("m", "manual")]).serve();
    let history = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..24 {
            let (instance, history) = (&instance, &history);
            scope.spawn(move || {
                let mut dice = Dice(number("MLXCTL_CHAOS_SEED", 1).wrapping_mul(977) + client);
                let mut asked = 0;
                while began.elapsed() < length {
                    let from = began.elapsed();
                    // Commands are rarer than status requests, or no run would ever become ready.
                    let what = dice.roll(12);
                    if let Some(answer) = ask(instance, what) {
                        history.lock().unwrap().push(Call { from, to: began.elapsed(), answer });
                    }
                    asked += 1;
                    std::thread::sleep(Duration::from_millis(dice.roll(60) as u64));
                }
                assert!(asked > 0);
            });
        }
    });
    let calls = history.into_inner().unwrap();
    let changes =
        calls.iter().filter(|call| !matches!(call.answer, Answer::SeenReady(_) | Answer::SeenDown)).count();
    println!("{} answers, {changes} of them to commands, in {:?}", calls.len(), began.elapsed());
    if let Err(best) = linearize(&calls) {
        let mut calls = calls;
        calls.sort_by_key(|call| call.from);
        let around = best.saturating_sub(20)..calls.len().min(best + 40);
        panic!("no order explains the answers around number {best}: {:#?}", &calls[around]);
    }
}

#[test]
fn the_check_tells_a_possible_history_from_an_impossible_one() {
    let call =
        |from, to, answer| Call { from: Duration::from_millis(from), to: Duration::from_millis(to), answer };
    use Answer::{Restarted, SeenDown, SeenReady, Started, Stopped};
    let good = [
        call(0, 50, Started(7)),
        call(10, 20, SeenDown),
        call(30, 40, SeenReady(7)),
        call(60, 90, Restarted(8)),
        call(61, 62, SeenReady(7)),
        call(70, 95, Stopped),
        call(96, 97, SeenDown),
    ];
    assert_eq!(linearize(&good), Ok(()));
    for lie in [
        call(60, 61, SeenDown),
        call(98, 99, SeenReady(8)),
        call(52, 55, SeenReady(9)),
        call(98, 99, Restarted(9)),
        call(98, 99, Restarted(7)),
    ] {
        let mut bad = good.to_vec();
        bad.push(lie);
        // The restart alone is possible, but then the last status is not.
        bad.push(call(100, 101, SeenDown));
        assert!(linearize(&bad).is_err(), "{lie:?}");
    }
}
