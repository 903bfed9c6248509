//! Several hosts on one machine: network namespaces on a bridge, each with its own address and sshd. The first host is
//! this machine itself. Everything is removed at the end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::PATIENCE;

const SSHD: &str = "/usr/sbin/sshd";

/// Remote hosts, and how to reach them.
pub struct Hosts {
    folder: tempfile::TempDir,
    /// The name of the bridge, and the prefix of every other name.
    bridge: String,
    /// The first three bytes of every address.
    network: String,
    daemons: Vec<Child>,
    count: usize,
}

impl Hosts {
    /// `count` hosts in addition to this one; the error says why this machine does not allow it.
    pub fn make(count: usize) -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return Err("network namespaces need root".into());
        }
        if !Path::new(SSHD).exists() {
            return Err(format!("{SSHD} is missing (openssh-server)"));
        }
        let number = (std::process::id() * 8 + MADE.fetch_add(1, Ordering::Relaxed)) % (1 << 16);
        let bridge = format!("mlxt{number:x}");
        let network = format!("10.{}.{}", 64 + (number >> 8) % 128, number & 255);
        let folder = tempfile::Builder::new().prefix("mlxh").tempdir().map_err(|error| error.to_string())?;
        let mut hosts = Self { folder, bridge, network, daemons: Vec::new(), count };
        hosts.build()?;
        Ok(hosts)
    }

    fn build(&mut self) -> Result<(), String> {
        let bridge = &self.bridge;
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", self.address(0)))?;
        ip(&format!("link set {bridge} up"))?;
        for host in 1..=self.count {
            let (space, wire) = (self.space(host), self.wire(host));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {wire} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {wire} master {bridge} up"))?;
            ip(&format!("-n {space} addr add {}/24 dev eth0", self.address(host)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        self.keys()?;
        for host in 1..=self.count {
            let daemon = self.sshd(host)?;
            self.daemons.push(daemon);
        }
        let began = Instant::now();
        for host in 1..=self.count {
            while !self.ssh(&self.name(host), "true").status.success() {
                if began.elapsed() > PATIENCE {
                    return Err(format!("no ssh to {}", self.name(host)));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    fn keys(&self) -> Result<(), String> {
        for key in std::iter::once("client".to_owned()).chain((1..=self.count).map(|host| self.name(host))) {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(self.file(&key))
                .output()
                .map_err(|error| format!("ssh-keygen: {error}"))?;
            said(made)?;
        }
        let key = |name: &str| std::fs::read_to_string(self.file(&format!("{name}.pub"))).unwrap();
        let mut config = String::new();
        let mut known = String::new();
        for host in 1..=self.count {
            let (name, address) = (self.name(host), self.address(host));
            config.push_str(&format!("Host {name}\n  HostName {address}\n  HostKeyAlias {name}\n"));
            known.push_str(&format!("{name} {}", key(&name)));
        }
        config.push_str(&format!(
            "Host *\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
             StrictHostKeyChecking yes\n  BatchMode yes\n  ConnectTimeout 3\n",
            self.file("client").display(),
            self.file("known").display()
        ));
        std::fs::write(self.file("config"), config).unwrap();
        std::fs::write(self.file("known"), known).unwrap();
        std::fs::write(self.file("authorized"), key("client")).unwrap();
        // Programs that run `ssh` from the PATH get this one.
        let bin = self.file("bin");
        std::fs::create_dir(&bin).unwrap();
        let script = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", self.file("config").display());
        super::program::write(&bin.join("ssh"), &script);
        Ok(())
    }

    fn sshd(&self, host: usize) -> Result<Child, String> {
        // It drops its privileges in this folder.
        std::fs::create_dir_all("/run/sshd").map_err(|error| error.to_string())?;
        let name = self.name(host);
        let config = self.file(&format!("{name}.sshd"));
        let text = format!(
            "ListenAddress {}\nPort 22\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\n",
            self.address(host),
            self.file(&name).display(),
            self.file("authorized").display()
        );
        std::fs::write(&config, text).unwrap();
        Command::new("ip")
            .args(["netns", "exec", &self.space(host), SSHD, "-D", "-q", "-f"])
            .arg(config)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("{SSHD}: {error}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The PATH whose `ssh` knows these hosts.
    pub fn path(&self) -> String {
        format!("{}:{}", self.file("bin").display(), std::env::var("PATH").unwrap_or_default())
    }

    /// The name that ssh uses for a host.
    pub fn name(&self, host: usize) -> String {
        format!("host{host}")
    }

    /// The address of a host; host 0 is this machine.
    pub fn address(&self, host: usize) -> String {
        format!("{}.{}", self.network, host + 1)
    }

    fn space(&self, host: usize) -> String {
        format!("{}h{host}", self.bridge)
    }

    fn wire(&self, host: usize) -> String {
        format!("{}w{host}", self.bridge)
    }

    fn ssh(&self, host: &str, command: &str) -> Output {
        Command::new(self.file("bin/ssh")).args([host, command]).stdin(Stdio::null()).output().unwrap()
    }

    /// Unplugs the cable of a host, or plugs it in again.
    pub fn link(&self, host: usize, up: bool) {
        ip(&format!("link set {} {}", self.wire(host), if up { "up" } else { "down" })).unwrap();
    }

    /// Limits the traffic to a host to 1 Mbit/s.
    pub fn slow(&self, host: usize) {
        let arguments =
            format!("qdisc add dev {} root tbf rate 1mbit burst 16kb latency 400ms", self.wire(host));
        said(Command::new("tc").args(arguments.split(' ')).output().unwrap()).unwrap();
    }

    /// What runs on a host, except sshd: process id and command line.
    pub fn processes(&self, host: usize) -> Vec<(i32, String)> {
        let listed = Command::new("ip").args(["netns", "pids", &self.space(host)]).output().unwrap();
        let pids = String::from_utf8(listed.stdout).unwrap();
        let found = pids.lines().filter_map(|pid| {
            let pid: i32 = pid.trim().parse().ok()?;
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // A zombie has no command line.
            (!line.is_empty() && !line.contains("sshd")).then_some((pid, line))
        });
        found.collect()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in 1..=self.count {
            for (pid, _) in self.processes(host) {
                super::signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for host in 1..=self.count {
            let listed = Command::new("ip").args(["netns", "pids", &self.space(host)]).output();
            // Sessions of sshd whose connection was cut off.
            for pid in listed.iter().flat_map(|listed| {
                String::from_utf8_lossy(&listed.stdout)
                    .into_owned()
                    .lines()
                    .filter_map(|pid| pid.trim().parse().ok())
                    .collect::<Vec<i32>>()
            }) {
                super::signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = ip(&format!("link del {}", self.wire(host)));
            let _ = ip(&format!("netns del {}", self.space(host)));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output
        .map_err(|error| format!("ip: {error} (iproute2)"))
        .and_then(said)
        .map_err(|why| format!("ip {arguments}: {why}"))
}

fn said(output: Output) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
