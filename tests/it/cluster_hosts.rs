//! One model on several hosts, each with its own network and sshd: whatever happens to a rank, a host or a cable, the
//! state tells the truth and nothing is left running anywhere.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cluster_real::{alone, model};
use crate::support::hosts::Hosts;
use crate::support::{Entry, Instance, PATIENCE, alive, http, signal};

/// A group's start takes longer than anything else here: ssh, Python and MLX on every host.
const START: Duration = Duration::from_secs(180);

struct Group {
    hosts: Hosts,
    instance: Instance,
    remote: usize,
}

impl Group {
    fn serve(remote: usize) -> Option<Self> {
        let hosts = match Hosts::make(remote) {
            Ok(hosts) => hosts,
            Err(why) => {
                println!("skipped: {why}");
                return None;
            }
        };
        let mut places = format!("{{ ssh = \"127.0.0.1\", addresses = [{:?}] }}", hosts.address(0));
        for host in 1..=remote {
            let (name, address) = (hosts.name(host), hosts.address(host));
            places.push_str(&format!(", {{ ssh = {name:?}, addresses = [{address:?}] }}"));
        }
        // As many KV heads as ranks; three ranks share layers instead.
        let mode = if remote == 1 { "tensor" } else { "pipeline" };
        let entry = Entry::new("many", "manual").repo(&model().display().to_string()).with(&format!(
            "cluster = {{ backend = \"ring\", mode = {mode:?}, heartbeat = \"500ms\", timeout = \"6s\", hosts = [{places}] }}\n\
             restart = {{ enabled = true, backoff_min = \"1s\", backoff_max = \"2s\", max_crashes = 100 }}"
        ));
        let mut instance = Instance::real(vec![entry]);
        instance.env("PATH", &hosts.path());
        Some(Self { hosts, instance: instance.serve(), remote })
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let model = self.instance.model("many");
            if wanted(&model) {
                return model;
            }
            let log = std::fs::read_to_string(self.instance.root().join("logs/many.log")).unwrap_or_default();
            assert!(began.elapsed() < START, "not {what}: {model:#}\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ready(&self) -> Value {
        self.wait("ready", |model| {
            let ranks = model["ranks"].as_array().is_some_and(|ranks| {
                ranks.len() == self.remote + 1 && ranks.iter().all(|rank| rank["state"] == "running")
            });
            model["state"] == "ready" && ranks
        })
    }

    fn answers(&self) {
        let body =
            json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0});
        let (status, body) =
            http(self.instance.gate("many"), "POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["usage"]["completion_tokens"], 8, "{body}");
    }

    /// The pid of every rank, by number.
    fn pids(&self) -> Vec<i32> {
        let model = self.ready();
        let ranks = model["ranks"].as_array().unwrap();
        ranks.iter().map(|rank| i32::try_from(rank["pid"].as_i64().unwrap()).unwrap()).collect()
    }

    /// What the history says about the last end of the group.
    fn last_words(&self, wanted: &str) {
        let began = Instant::now();
        loop {
            let events = self.instance.events();
            let texts: Vec<_> =
                events.iter().map(|event| event["text"].as_str().unwrap().to_owned()).collect();
            if texts.iter().any(|text| text.contains(wanted)) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no event says {wanted:?}: {texts:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Checks that no host runs anything but sshd, and that these processes are gone.
    fn nothing_is_left(&self, pids: &[i32]) {
        let left: Vec<_> = (1..=self.remote).flat_map(|host| self.hosts.processes(host)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(pids.iter().all(|pid| !alive(*pid)), "{pids:?}");
    }
}

/// The keeper of a host's rank: `mlxctl __rank`.
fn keeper(hosts: &Hosts, host: usize) -> i32 {
    let processes = hosts.processes(host);
    let found = processes.iter().find(|(_, line)| line.trim_end().ends_with("__rank"));
    found.unwrap_or_else(|| panic!("no rank on host {host}: {processes:?}")).0
}

fn a_rank_that_is_killed(remote: usize) {
    let _alone = alone();
    let Some(group) = Group::serve(remote) else { return };
    group.instance.expect(0, &["start", "many", "--timeout", "180s"]);
    group.answers();
    let first = group.pids();
    signal(keeper(&group.hosts, remote), Signal::SIGKILL);
    group.last_words(&format!("rank {remote} on host{remote}"));
    group.wait("restarted", |model| model["restarts"] == 1 && model["state"] == "ready");
    assert!(first.iter().all(|pid| !alive(*pid)), "the next group started next to {first:?}");
    group.answers();
    let second = group.pids();
    group.instance.expect(0, &["stop", "many"]);
    group.nothing_is_left(&second);
    assert_eq!(group.instance.model("many")["state"], "stopped");
}

fn a_cable_that_is_pulled(remote: usize) {
    let _alone = alone();
    let Some(group) = Group::serve(remote) else { return };
    group.instance.expect(0, &["start", "many", "--timeout", "180s"]);
    group.hosts.slow(remote);
    group.answers();
    assert_eq!(group.instance.model("many")["restarts"], 0, "slow is not dead");
    let pids = group.pids();
    group.hosts.link(remote, false);
    group.wait("down", |model| model["state"] != "ready" && model["state"] != "stopping");
    group.last_words(&format!("rank {remote} on host{remote} sent no heartbeat for"));
    assert!(
        pids.iter().all(|pid| !alive(*pid)),
        "down means that the host that was cut off has ended it, too"
    );
    group.hosts.link(remote, true);
    group.ready();
    group.answers();
    let pids = group.pids();
    group.instance.expect(0, &["stop", "many"]);
    group.nothing_is_left(&pids);
}

fn a_supervisor_that_comes_back(remote: usize) {
    let _alone = alone();
    let Some(mut group) = Group::serve(remote) else { return };
    group.instance.expect(0, &["start", "many", "--timeout", "180s"]);
    let pids = group.pids();
    group.instance.kill_supervisor();
    group.instance.serve_again();
    assert_eq!(group.pids(), pids);
    assert_eq!(group.instance.model("many")["adopted"], true);
    group.answers();
    // A killed conductor cannot say goodbye; its ranks notice.
    signal(group.instance.pid("many"), Signal::SIGKILL);
    group.wait("restarted", |model| model["restarts"] == 1 && model["state"] == "ready");
    assert!(pids.iter().all(|pid| !alive(*pid)), "the next group started next to {pids:?}");
    // When the supervisor ends, it ends the group.
    let pids = group.pids();
    assert_eq!(group.instance.end(), Some(0));
    group.nothing_is_left(&pids);
}

#[test]
fn two_hosts_a_remote_rank_that_is_killed_is_named_and_stop_leaves_nothing() {
    a_rank_that_is_killed(1);
}

#[test]
fn three_hosts_a_remote_rank_that_is_killed_is_named_and_stop_leaves_nothing() {
    a_rank_that_is_killed(2);
}

#[test]
fn two_hosts_a_slow_cable_is_not_dead_and_one_that_is_pulled_ends_every_rank() {
    a_cable_that_is_pulled(1);
}

#[test]
fn three_hosts_a_slow_cable_is_not_dead_and_one_that_is_pulled_ends_every_rank() {
    a_cable_that_is_pulled(2);
}

#[test]
fn two_hosts_a_supervisor_that_comes_back_adopts_the_group() {
    a_supervisor_that_comes_back(1);
}

#[test]
fn three_hosts_a_supervisor_that_comes_back_adopts_the_group() {
    a_supervisor_that_comes_back(2);
}
