//! Documents for tests, and what every screen is held to.

use unicode_width::UnicodeWidthStr;

use super::Look;
use crate::api::*;
use crate::host::Pressure;
use crate::registry::Start;

/// A screen at four widths, one below the other; no line is wider than its terminal.
pub(crate) fn at_every_width(draw: impl Fn(&Look) -> String) -> String {
    let widths = [60, 80, 120, 160].into_iter();
    let at = |width| {
        let text = draw(&Look { width, color: false, unicode: true });
        assert!(text.lines().all(|line| line.width() <= width), "{width} columns\n{text}");
        format!("{width} columns\n{text}\n")
    };
    widths.map(at).collect()
}

/// A table whose columns line up: between any two heads, a gap of two blanks goes through every line.
pub(crate) fn aligned(table: &str) {
    let lines: Vec<Vec<char>> = table.lines().map(|line| line.chars().collect()).collect();
    let gap = |at: usize| {
        let blank = |line: &Vec<char>| line[at.min(line.len())..].iter().take(2).all(|c| *c == ' ');
        lines.iter().all(blank)
    };
    let heads: Vec<&str> = table.lines().next().unwrap_or_default().split("  ").collect();
    let mut starts = Vec::new();
    let mut at = 0;
    for head in heads {
        if !head.is_empty() {
            starts.push((at + head.len() - head.trim_start().len(), at + head.len()));
        }
        at += head.len() + 2;
    }
    for pair in starts.windows(2) {
        let ((left, _), (_, right)) = (pair[0], pair[1]);
        assert!((left..right).any(gap), "columns {left} to {right} of\n{table}");
    }
}

fn model(name: &str, start: Start, state: StateName) -> ModelStatus {
    let (repo, address) = (format!("mlx-community/{name}-4bit"), "192.168.132.21:8800".to_owned());
    let stopped = ModelStatus::stopped(name, repo, start, address);
    let memory = ModelMemoryStatus { estimate_bytes: Some(21_400_000_000), ..Default::default() };
    ModelStatus { state, memory, ..stopped }
}

fn live(mut model: ModelStatus, pid: i32) -> ModelStatus {
    model.pid = Some(pid);
    model.backend_address = Some("127.0.0.1:50123".into());
    model.uptime_seconds = Some(192.0);
    model.memory.footprint_bytes = Some(18_900_000_000);
    model.memory.peak_bytes = Some(20_100_000_000);
    model.health =
        HealthStatus { alive: true, listening: true, answering: true, last_probe_seconds: Some(2.0) };
    model
}

/// The user's deployment, one model ready and one refused.
pub(crate) fn status() -> Status {
    let mut small = live(model("32b", Start::Always, StateName::Ready), 4711);
    small.repo = "mlx-community/DeepSeek-R1-Distill-Qwen-32B-4bit".into();
    small.traffic = TrafficStatus {
        in_flight: 2,
        counts: Counts { requests: 140, tokens: 90_000, ..Counts::default() },
        tokens_per_second: Some(27.13),
        ttft_ms: Some(412.0),
    };
    let mut large = model("70b", Start::Manual, StateName::Stopped);
    large.repo = "mlx-community/Qwen2.5-72B-Instruct-4bit".into();
    large.address = "192.168.132.21:8801".into();
    large.memory.estimate_bytes = Some(43_000_000_000);
    large.reason = Some("stopped by hand 3 minutes ago, after memory pressure was critical for 30 s".into());
    large.hint = Some("mlxctl start 70b".into());
    Status {
        schema: SCHEMA,
        supervisor: Some(SupervisorStatus {
            pid: 812,
            version: "0.1.0".into(),
            uptime_seconds: 187_200.0,
            config: "/Users/Shared/ganuda/config/models.toml".into(),
            config_problem: None,
            footprint_bytes: Some(5_200_000),
            waiting_for: vec![],
            yielding_to: vec![],
            pace_percent: None,
            holding: false,
        }),
        host: HostStatus {
            os: "macOS 15.1".into(),
            chip: Some("Apple M4 Max".into()),
            memory_bytes: 128_000_000_000,
            available_bytes: Some(84_300_000_000),
            pressure: Pressure::Normal,
            swap_used_bytes: Some(0),
            gpu_limit_bytes: Some(107_520_000_000),
        },
        budget: BudgetStatus {
            total_bytes: 128_000_000_000,
            reserved_bytes: 10_000_000_000,
            models_bytes: 21_400_000_000,
            free_bytes: 96_600_000_000,
            reserves: vec![
                ReserveStatus { name: "macOS + apps".into(), bytes: 10_000_000_000, active: true },
                ReserveStatus { name: "Civ V".into(), bytes: 10_000_000_000, active: false },
            ],
        },
        models: vec![small, large],
        router: Some(RouterStatus { address: "192.168.132.21:8899".into(), problem: None }),
        answer: None,
    }
}

/// The same, while no supervisor runs.
pub(crate) fn planned() -> Status {
    let mut status = status();
    status.supervisor = None;
    for entry in &mut status.models {
        let (name, start) = (entry.name.clone(), entry.start);
        let (repo, address) = (entry.repo.clone(), entry.address.clone());
        let estimate = entry.memory.estimate_bytes;
        *entry = model(&name, start, StateName::Stopped);
        entry.repo = repo;
        entry.address = address;
        entry.memory.estimate_bytes = estimate;
    }
    status
}

/// A model in each state, with everything that can be said about it.
pub(crate) fn every_state() -> Status {
    let mut status = status();
    let mut loading = live(model("loading", Start::Manual, StateName::Loading), 2);
    loading.progress = Some(0.43);
    let mut backoff = model("backoff", Start::Always, StateName::Backoff);
    backoff.restarts = 3;
    backoff.next_start_seconds = Some(12.4);
    backoff.reason = Some(
        "the generation thread died: [METAL] Command buffer execution failed: Insufficient Memory".into(),
    );
    backoff.hint = Some("lower memory.context or memory.concurrency of backoff in the registry".into());
    let mut failed = model("failed", Start::Always, StateName::Failed);
    failed.restarts = 5;
    failed.reason = Some("crashed 5 times in 10m; the last time: No module named 'mlx_lm'".into());
    failed.hint = Some("mlxctl setup, then mlxctl start failed".into());
    let mut ready = live(model("ready", Start::Always, StateName::Ready), 4);
    ready.adopted = true;
    ready.outdated = Some("server.max_tokens: 512 → 1024".into());
    let mut busy = live(model("busy", Start::Always, StateName::Ready), 5);
    busy.health.answering = false;
    busy.memory.footprint_bytes = Some(22_000_000_000);
    status.models = vec![
        model("stopped", Start::Manual, StateName::Stopped),
        live(model("spawning", Start::Manual, StateName::Spawning), 1),
        loading,
        ready,
        busy,
        live(model("draining", Start::Manual, StateName::Draining), 6),
        live(model("stopping", Start::Manual, StateName::Stopping), 7),
        backoff,
        failed,
    ];
    status.host.memory_bytes = 256_000_000_000;
    status.budget.total_bytes = 256_000_000_000;
    status.budget.models_bytes = 6 * 21_400_000_000;
    status.budget.free_bytes = 117_600_000_000;
    status.host.pressure = Pressure::Warning;
    status.host.swap_used_bytes = Some(1_500_000_000);
    if let Some(supervisor) = &mut status.supervisor {
        supervisor.config_problem = Some("line 12: unknown key `prot`".into());
        supervisor.waiting_for = vec!["192.168.132.21, which no interface has".into()];
    }
    status
}

/// A model outside its hours, and one beside a game that slows it down and holds its requests.
pub(crate) fn asleep_and_paced() -> Status {
    let mut status = status();
    let [ready, asleep] = &mut status.models[..] else { panic!("two models") };
    ready.idle_seconds = Some(7_300.0);
    ready.stops_in_seconds = Some(720.0);
    (ready.start, ready.traffic.in_flight) = (Start::Manual, 0);
    asleep.start = Start::Always;
    asleep.asleep_until = Some("08:00".into());
    asleep.reason = Some("asleep until 08:00".into());
    asleep.hint = None;
    if let Some(supervisor) = &mut status.supervisor {
        supervisor.yielding_to = vec!["Civilization V".into()];
        (supervisor.pace_percent, supervisor.holding) = (Some(50), true);
    }
    status
}
