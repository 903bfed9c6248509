//! The typed property list that launchd runs the supervisor from: launchd.plist(5).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::registry::{Agent, ProcessType};

/// A launchd job. The fields are in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Job {
    /// The job's name, unique in its domain.
    pub label: String,
    /// The supervisor's command line. It starts with an absolute path, because launchd does not search for programs.
    pub program_arguments: Vec<String>,
    /// An absolute path; launchd does not expand `~`.
    pub working_directory: String,
    pub run_at_load: bool,
    /// Whether it is restarted however it ended. Not `{Crashed = true}`, which does not restart a job that was killed
    /// with SIGKILL.
    pub keep_alive: bool,
    /// Opened for appending; its folder must exist.
    pub standard_out_path: String,
    pub standard_error_path: String,
    /// launchd accepts only strings as values.
    pub environment_variables: BTreeMap<String, String>,
    /// How launchd limits CPU and disk use; children inherit it.
    pub process_type: ProcessType,
    /// Whether its disk access yields to that of other programs.
    #[serde(rename = "LowPriorityIO")]
    pub low_priority_io: bool,
    /// Scheduling priority, −20 (highest) to 20.
    pub nice: i8,
    /// Seconds between SIGTERM and SIGKILL. If unset, current versions of launchd wait 5 s: too short for a drain,
    /// and a backend whose supervisor was killed during one stays behind.
    pub exit_time_out: u64,
    /// Least number of seconds between two starts.
    pub throttle_interval: u64,
    /// Whether launchd leaves the rest of the job's process group alone once the job has ended. Backends lead their
    /// own groups and outlive a supervisor that crashes or is replaced; this also protects a child that has been
    /// forked but does not have its own group yet.
    pub abandon_process_group: bool,
    /// Resource limits that the supervisor starts with.
    pub soft_resource_limits: ResourceLimits,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ResourceLimits {
    /// The most open files per process.
    pub number_of_files: u64,
}

impl Job {
    /// The job that runs `program serve --config config` as `agent` wants it.
    ///
    /// Both paths must be absolute: launchd has neither a shell's PATH nor its current folder. Names that are not
    /// UTF-8 cannot occur: APFS and HFS+ do not allow them, and a property list could not contain them.
    pub(crate) fn new(agent: &Agent, program: &Path, config: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Self {
            label: agent.label.clone(),
            program_arguments: vec![text(program), "serve".into(), "--config".into(), text(config)],
            working_directory: text(&agent.working_directory),
            run_at_load: true,
            keep_alive: true,
            standard_out_path: text(&agent.log),
            standard_error_path: text(&agent.log),
            environment_variables: [("PATH".to_owned(), agent.path.clone())]
                .into_iter()
                .chain(agent.environment.iter().cloned())
                .collect(),
            process_type: agent.process_type,
            low_priority_io: agent.low_priority_io,
            nice: agent.nice,
            // launchd counts whole seconds; rounding down would send SIGKILL too early.
            exit_time_out: agent.exit_timeout.as_secs() + u64::from(agent.exit_timeout.subsec_nanos() > 0),
            throttle_interval: agent.throttle_interval.as_secs(),
            abandon_process_group: true,
            soft_resource_limits: ResourceLimits { number_of_files: agent.open_files },
        }
    }

    /// The XML property list; the same job gives the same bytes.
    ///
    /// # Errors
    /// The writer's own; none is expected when writing to memory.
    pub(crate) fn to_xml(&self) -> Result<String, plist::Error> {
        let mut xml = Vec::new();
        let options = plist::XmlWriteOptions::default().indent(b' ', 4);
        plist::to_writer_xml_with_options(&mut xml, self, &options)?;
        xml.push(b'\n');
        Ok(String::from_utf8_lossy(&xml).into_owned())
    }

    /// The job as untyped keys and values, for comparison with a file that may contain anything.
    pub(crate) fn to_dictionary(&self) -> Result<plist::Dictionary, plist::Error> {
        Ok(plist::to_value(self)?.into_dictionary().unwrap_or_default())
    }
}

/// The property list of `agent`, as written to `~/Library/LaunchAgents`.
pub fn render(agent: &Agent, program: &Path, config: &Path) -> Result<String, plist::Error> {
    Job::new(agent, program, config).to_xml()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn agent() -> Agent {
        Agent {
            label: "com.cherokee.mlx-server".into(),
            process_type: ProcessType::Background,
            nice: 10,
            low_priority_io: true,
            path: "/Users/Shared/ganuda/mlx_venv/bin:/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin".into(),
            working_directory: "/Users/Shared/ganuda".into(),
            log: "/Users/Shared/ganuda/logs/mlx-server.log".into(),
            exit_timeout: Duration::from_secs(300),
            throttle_interval: Duration::from_secs(10),
            open_files: 8192,
            environment: vec![],
        }
    }

    pub(crate) fn job() -> Job {
        let (program, config) =
            ("/Users/Shared/ganuda/bin/mlxctl", "/Users/Shared/ganuda/config/models.toml");
        Job::new(&agent(), Path::new(program), Path::new(config))
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_job() {
        let xml = job().to_xml().unwrap();
        assert_eq!(plist::from_bytes::<Job>(xml.as_bytes()).unwrap(), job());
    }

    #[test]
    fn text_that_xml_would_misread_survives() {
        let mut odd = agent();
        odd.label = "a<b>&\"c\"'é".into();
        let job = Job::new(&odd, Path::new("/a & b/mlxctl"), Path::new("/c <d>/models.toml"));
        let back: Job = plist::from_bytes(job.to_xml().unwrap().as_bytes()).unwrap();
        assert_eq!(back, job);
    }

    #[test]
    fn every_choice_of_the_registry_is_in_the_job() {
        let mut agent = agent();
        agent.throttle_interval = Duration::from_secs(3);
        agent.open_files = 512;
        agent.environment = vec![("HF_HOME".into(), "/Volumes/Models".into())];
        let job = Job::new(&agent, Path::new("/m"), Path::new("/c"));
        assert_eq!((job.throttle_interval, job.soft_resource_limits.number_of_files), (3, 512));
        assert_eq!(job.environment_variables["HF_HOME"], "/Volumes/Models");
        assert_eq!(job.environment_variables["PATH"], agent.path);
    }

    #[test]
    fn a_part_of_a_second_never_shortens_the_exit_timeout() {
        let mut agent = agent();
        agent.exit_timeout = Duration::from_millis(1);
        assert_eq!(Job::new(&agent, Path::new("/m"), Path::new("/c")).exit_time_out, 1);
        agent.exit_timeout = Duration::from_secs(7);
        assert_eq!(Job::new(&agent, Path::new("/m"), Path::new("/c")).exit_time_out, 7);
    }
}
