//! The part that looks: at files, sockets, the host, a few programs. It changes nothing.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use super::disk::{HubCache, Leftovers};
use super::machine::Power;
use super::macos;
use super::network::PortUse;
use super::python::Installed;
use super::{Finding, cluster, disk, machine, network, python, service};
use crate::api::Status;
use crate::api::paths;
use crate::backend::record;
use crate::cluster::ask::Ssh;
use crate::cluster::host::{Question, report};
use crate::host::panics;
use crate::host::{self, Host};
use crate::memory::{GpuLimit, Platform};
use crate::python::venv::{self, Environment, NotReady, SetupRequest};
use crate::python::{hub, interpreter};
use crate::registry::{Problems, Registry, Source, Start};
use crate::service::agent::Agent;
use crate::units::Bytes;

/// The checks that need no registry.
pub(crate) fn machine(host: &dyn Host) -> Vec<Finding> {
    let (facts, memory) = (host.facts(), host.memory().ok());
    let made = std::env::current_exe().and_then(fs_err::metadata).and_then(|file| file.modified());
    vec![
        machine::system(&facts.os, facts.chip.as_deref(), std::env::consts::ARCH),
        machine::swap(memory.and_then(|memory| memory.swap_used)),
        machine::power(Power::parse(&output("pmset", &["-g", "batt"]), &output("pmset", &["-g"]))),
        machine::clock(SystemTime::now(), made.ok()),
        macos::panics(host.panic_reports().map(|_| panics::fresh(host))),
    ]
}

/// The failed check of the registry, without which the other checks cannot run.
pub(crate) fn broken(problems: &Problems, file: &Path) -> Finding {
    let problems = problems.iter().map(ToString::to_string).collect();
    service::registry(&file.to_string_lossy(), Err(problems))
}

/// The checks of a deployment. `status`: the supervisor's, if one answers.
pub(crate) fn deployment(
    registry: &Registry,
    agent: Result<&dyn Agent, String>,
    status: Option<&Status>,
    host: &dyn Host,
) -> Vec<Finding> {
    let mut findings = vec![service::registry(&registry.file.to_string_lossy(), Ok(registry.models.len()))];
    let request = SetupRequest::new(registry, false);
    let existing = venv::existing(&request);
    findings.extend(environment(&request, &existing));
    findings.extend(on_the_network(registry, status));
    findings.extend(memory(registry, existing.as_ref().ok().and_then(|found| found.gpu_limit), host));
    findings.extend(on_disk(registry, status, host));
    let answer = status.and_then(|status| status.supervisor.as_ref());
    let told = answer.map(|supervisor| (supervisor.version.as_str(), supervisor.config_problem.as_deref()));
    findings.push(service::supervisor(told, env!("CARGO_PKG_VERSION")));
    findings.push(firewall(registry, agent.as_deref().ok()));
    findings.extend(as_service(agent, answer.map(|supervisor| supervisor.pid)));
    findings.push(service::process_type(registry.agent.process_type, cfg!(target_os = "macos")));
    findings
}

/// The checks of every model that is spread over several machines, each of which is asked over ssh.
pub(crate) fn clusters(registry: &Registry, status: Option<&Status>, host: &dyn Host) -> Vec<Finding> {
    let Ok(binary) = std::env::current_exe() else { return Vec::new() };
    let ssh = Ssh::new(&binary);
    let found = registry.models.iter().filter_map(|model| {
        let asked = Question {
            venv: Some(registry.paths.venv.clone()),
            model: Some(model.source.clone()),
            programs: Vec::new(),
        };
        let others = ssh.ask(model.cluster.as_ref()?, &asked);
        let here = report(host, &asked);
        let known = status.and_then(|status| status.models.iter().find(|known| known.name == model.name));
        let reason = known.and_then(|known| known.reason.as_deref());
        Some(cluster::checks(&cluster::Seen { model, here: &here, others: &others, reason }))
    });
    found.flatten().collect()
}

fn environment(request: &SetupRequest, existing: &Result<Environment, NotReady>) -> [Finding; 4] {
    let installed = existing.as_ref().ok().map(|found| Installed {
        mlx_lm: found.versions.mlx_lm.clone(),
        mlx: found.versions.mlx.clone(),
        transformers: found.versions.transformers.clone(),
    });
    let found = interpreter::find(request.interpreter.as_deref(), request.uv.as_deref());
    let found = match &found {
        Ok(found) => Ok((found.path.as_path(), found.probe.version_text())),
        Err(none) => Err(none.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")),
    };
    let whole = match existing {
        Ok(found) => Ok((found.python.as_path(), found.outdated.as_deref())),
        Err(not) => Err((not.why.as_str(), not.hint.as_str())),
    };
    [
        python::interpreter(found, existing.is_ok()),
        python::venv(whole),
        python::versions(installed.as_ref()),
        python::cve(installed.as_ref()),
    ]
}

fn on_the_network(registry: &Registry, status: Option<&Status>) -> [Finding; 3] {
    let network = &registry.network;
    let present = addresses();
    let pid = status.and_then(|status| status.supervisor.as_ref()).map(|supervisor| supervisor.pid);
    let whose = |listens: bool, port| port_use(network.host, port, pid, listens);
    let listens = |name: &str| {
        let found = status.and_then(|status| status.models.iter().find(|known| known.name == name));
        found.is_some_and(|model| !model.gate.listening.is_empty())
    };
    let gates = registry
        .models
        .iter()
        .map(|model| (model.name.clone(), model.port, whose(listens(&model.name), model.port)));
    let routed =
        status.and_then(|status| status.router.as_ref()).is_some_and(|router| router.problem.is_none());
    let router = registry.router.map(|port| ("the router".to_owned(), port, whose(routed, port)));
    let ports: Vec<(String, u16, PortUse)> = gates.chain(router).collect();
    [
        network::address(network.host, &present),
        network::ports(&ports),
        network::allow_list(network.host, &network.allow_from, network.require_key),
    ]
}

/// The addresses of this machine's interfaces.
fn addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .collect()
}

/// Tries to listen where a gate would, for a moment; see [`PortUse::in_use`] for the rest.
fn port_use(host: IpAddr, port: u16, supervisor: Option<i32>, listens: bool) -> PortUse {
    let loopback =
        if host.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    let outcome = |address| match TcpListener::bind((address, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Some(PortUse::in_use(host::port_holders(port), supervisor, listens))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(PortUse::Denied),
        Err(_) => None,
        Ok(_) => Some(PortUse::Free),
    };
    // While the address is missing, the gate serves loopback.
    outcome(host).or_else(|| outcome(loopback)).unwrap_or(PortUse::Free)
}

fn memory(registry: &Registry, noted: Option<Bytes>, host: &dyn Host) -> [Finding; 2] {
    let always_on: Bytes = registry
        .models
        .iter()
        .filter(|model| model.start == Start::Always)
        .filter_map(|model| model.size)
        .sum();
    let reading = host.memory().unwrap_or_default();
    let limit = GpuLimit::of(Platform::of(&reading), &reading, noted);
    // Each client takes two files: its connection and the one to the backend. The rest is the supervisor's own.
    let each = || registry.models.iter().map(|model| u64::from(model.limits.connections));
    let connections: u64 = each().chain(registry.router.and_then(|_| each().max())).sum();
    let files = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let (soft, hard) = files.unwrap_or((u64::MAX, u64::MAX));
    [machine::gpu_limit(limit, always_on), machine::open_files(soft, hard, connections * 2 + 64)]
}

fn on_disk(registry: &Registry, status: Option<&Status>, host: &dyn Host) -> [Finding; 6] {
    let cache = hub::cache_folder();
    let (mut missing, mut partial) = (Vec::new(), Vec::new());
    for model in &registry.models {
        let Source::Hub(repo) = &model.source else { continue };
        match hub::cached(repo) {
            Some(found) if found.complete => {}
            Some(found) => {
                partial.push(model.name.clone());
                missing.push((model.name.clone(), model.size.map(|size| size.saturating_sub(found.bytes))));
            }
            None => missing.push((model.name.clone(), model.size)),
        }
    }
    let folder = cache.as_deref().filter(|folder| folder.is_dir());
    let run = &registry.paths.run;
    let keys = registry.paths.state.join("keys.json");
    let mode =
        fs_err::metadata(&keys).ok().map(|file| std::os::unix::fs::PermissionsExt::mode(&file.permissions()));
    [
        disk::space(&missing, cache.as_deref().and_then(free_space), &written(registry)),
        disk::hub_cache(&HubCache { folder: folder.map(|folder| folder.display().to_string()), partial }),
        disk::logs(&registry.paths.logs, can_write(&registry.paths.logs), largest(&registry.paths.logs)),
        disk::leftovers(leftovers(registry, status.is_some(), host)),
        disk::socket_path(&run.join("mlxctl.sock"), &paths::socket_path(run), paths::SOCKET_PATH_MAX),
        disk::keys(&keys, mode, registry.network.require_key),
    ]
}

/// The folders that a supervisor writes to, and the space free on their disks; one folder per disk.
fn written(registry: &Registry) -> Vec<(String, Bytes)> {
    let mut seen = Vec::new();
    let paths = [&registry.paths.root, &registry.paths.state, &registry.paths.logs];
    let device = |folder: &Path| {
        let there = folder.ancestors().find(|folder| folder.exists())?;
        Some(std::os::unix::fs::MetadataExt::dev(&fs_err::metadata(there).ok()?))
    };
    let folders = paths.into_iter().filter(|folder| {
        let disk = device(folder);
        let new = !seen.contains(&disk);
        seen.push(disk);
        new
    });
    folders.filter_map(|folder| Some((folder.display().to_string(), free_space(folder)?))).collect()
}

/// What an ordinary user may still write to the disk that `folder` is on, or will be on once it is created.
fn free_space(folder: &Path) -> Option<Bytes> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let disk = nix::sys::statvfs::statvfs(there).ok()?;
    // These have different widths on different systems; both fit.
    let blocks = u64::try_from(i128::from(disk.blocks_available())).ok()?;
    let size = u64::try_from(i128::from(disk.fragment_size())).ok()?;
    Some(Bytes(blocks.saturating_mul(size)))
}

fn can_write(folder: &Path) -> Result<(), String> {
    // A folder that does not exist yet is as writable as its nearest existing ancestor.
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    // On a full disk a file can be created, but nothing can be written to it.
    let block = [0; 64 << 10];
    let tried = tempfile::tempfile_in(there).and_then(|mut file| {
        file.write_all(&block)?;
        file.sync_data()
    });
    tried.map_err(|error| error.to_string())
}

fn largest(folder: &Path) -> Option<(String, Bytes)> {
    let files = fs_err::read_dir(folder).ok()?.filter_map(Result::ok);
    files
        .filter_map(|file| {
            Some((file.file_name().to_string_lossy().into_owned(), Bytes(file.metadata().ok()?.len())))
        })
        .max_by_key(|(_, size)| *size)
}

fn leftovers(registry: &Registry, supervisor: bool, host: &dyn Host) -> Leftovers {
    let mut found = Leftovers { supervisor, ..Leftovers::default() };
    for model in &registry.models {
        let Ok(Some(left)) = record::read_record(&registry.paths.run, &model.name) else { continue };
        let lives = left.boot_id == host.facts().boot_id
            && host.identify(left.identity.pid).ok().flatten() == Some(left.identity);
        if lives { found.orphans += 1 } else { found.records += 1 }
    }
    found
}

fn as_service(agent: Result<&dyn Agent, String>, supervisor: Option<i32>) -> Vec<Finding> {
    let agent = match agent {
        Ok(agent) => agent,
        Err(why) => {
            return vec![Finding::skip("agent-file", why.as_str()), Finding::skip("agent-state", why)];
        }
    };
    let found = fs_err::read(agent.file()).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let differences = found.map(|found| match found == agent.wanted() {
        true => Vec::new(),
        false => agent.differs(&found),
    });
    let seen = agent.seen();
    let seen = seen.as_ref().map_err(|error| error.what.as_str());
    vec![
        service::agent_file(&agent.file().display().to_string(), differences.as_deref()),
        service::agent_state(agent.manager(), seen, supervisor),
    ]
}

/// Asks the application firewall about the program that listens for connections.
fn firewall(registry: &Registry, agent: Option<&dyn Agent>) -> Finding {
    let program = agent.map(|agent| agent.program().to_owned());
    let program = program.or_else(|| std::env::current_exe().ok()).unwrap_or_default();
    let ask = |arguments: &[&str]| output("socketfilterfw", arguments);
    let app = program.display().to_string();
    macos::firewall(
        registry.network.host,
        &program,
        &ask(&["--getglobalstate"]),
        &ask(&["--getappblocked", &app]),
    )
}

/// What a program prints to stdout; empty if it cannot be run.
fn output(program: &str, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{path}:{}", macos::FIREWALL);
    let ended = Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    ended.map(|ended| String::from_utf8_lossy(&ended.stdout).into_owned()).unwrap_or_default()
}
