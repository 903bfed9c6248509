//! What a model takes on each machine of its cluster. Every rank is a process of its own, with its share of the
//! weights and caches and the same bounds; a machine holds all of its ranks.

use serde::Serialize;

use super::bounds::Bounds;
use super::choose::bounds;
use super::estimate::{ModelFiles, estimate};
use super::figures::Estimate;
use super::learn::Learned;
use super::platform::Platform;
use super::problem::Problem;
use super::room::{Room, room};
use super::split::split;
use crate::registry::{Cluster, Model};
use crate::units::Bytes;

/// What one machine of a cluster holds, all its ranks together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HostEstimate {
    pub host: String,
    /// Whether this is the supervisor's machine.
    pub local: bool,
    pub ranks: Vec<usize>,
    pub estimate: Estimate,
}

/// The bounds a start would have, and what it would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Bounds of each of its processes.
    pub bounds: Bounds,
    /// What kept prompts and a prefill share; `None`: nothing is shared, or the files are not downloaded.
    pub room: Option<Room>,
    /// On this machine. `None`: not known.
    pub estimate: Option<Estimate>,
    /// On every machine of its cluster, this one first; empty: no cluster, or not known.
    pub hosts: Vec<HostEstimate>,
}

/// Bounds and estimates of `model`. `learned` returns the footprints measured under given bounds; those of a cluster's
/// ranks are not learned.
///
/// # Errors
/// As [`bounds`]; and [`Problem::Cluster`] where the model cannot be divided.
pub(crate) fn outlook(
    model: &Model,
    files: &ModelFiles,
    draft: Option<&ModelFiles>,
    platform: Platform,
    learned: impl Fn(&Bounds) -> Option<Learned>,
) -> Result<Outlook, Problem> {
    let Some(cluster) = &model.cluster else {
        let bounds = bounds(model, files, draft, platform)?;
        let estimate = estimate(files, draft, &bounds, platform, learned(&bounds).as_ref());
        let room = room(files, draft, &bounds, platform);
        return Ok(Outlook { bounds, room, estimate, hosts: Vec::new() });
    };
    let shares = shares(cluster, files)?;
    // A ceiling applies to each rank, so the largest share decides.
    let weight = |share: &&ModelFiles| match share {
        ModelFiles::Read(files) => files.weights.bytes,
        ModelFiles::Declared(_) | ModelFiles::Unknown => Bytes::ZERO,
    };
    let bounds = bounds(model, shares.iter().max_by_key(weight).unwrap_or(files), None, platform)?;
    let of = |rank: &usize| estimate(shares.get(*rank)?, None, &bounds, platform, None);
    let host = |(place, ranks): (&crate::registry::Rank, Vec<usize>)| {
        let parts: Vec<Estimate> = ranks.iter().map(of).collect::<Option<_>>()?;
        Some(HostEstimate {
            host: place.host.clone(),
            local: place.local,
            estimate: together(&ranks, parts),
            ranks,
        })
    };
    let hosts: Vec<HostEstimate> =
        cluster.hosts().into_iter().map(host).collect::<Option<_>>().unwrap_or_default();
    let local: Vec<&HostEstimate> = hosts.iter().filter(|host| host.local).collect();
    let here: Vec<_> = local.iter().flat_map(|host| host.estimate.terms.clone()).collect();
    let ceilings: Option<Vec<Bytes>> = local.iter().map(|host| host.estimate.ceiling).collect();
    let ceiling = ceilings.map(|ceilings| ceilings.into_iter().sum());
    let estimate = (!local.is_empty()).then(|| Estimate::of(here, ceiling));
    Ok(Outlook { bounds, room: None, estimate, hosts })
}

fn shares(cluster: &Cluster, files: &ModelFiles) -> Result<Vec<ModelFiles>, Problem> {
    let ranks = cluster.ranks.len();
    Ok(match files {
        ModelFiles::Read(files) => split(files, cluster.mode, ranks)?
            .into_iter()
            .map(|share| ModelFiles::Read(Box::new(share)))
            .collect(),
        ModelFiles::Declared(size) => {
            vec![ModelFiles::Declared(Bytes(size.0.div_ceil(ranks.max(1) as u64))); ranks]
        }
        ModelFiles::Unknown => vec![ModelFiles::Unknown; ranks],
    })
}

/// The terms of several processes, prefixed with their rank where there is more than one.
fn together(ranks: &[usize], parts: Vec<Estimate>) -> Estimate {
    let many = u64::try_from(parts.len()).unwrap_or(1);
    let ceiling =
        parts.first().and_then(|part| part.ceiling).map(|ceiling| Bytes(ceiling.0.saturating_mul(many)));
    let terms = ranks.iter().zip(parts).flat_map(|(rank, part)| {
        part.terms.into_iter().map(move |mut term| {
            if many > 1 {
                term.name = format!("rank {rank}: {}", term.name);
            }
            term
        })
    });
    Estimate::of(terms.collect(), ceiling)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::memory::fixtures;

    fn model(more: &str) -> Model {
        let text = format!(
            "[[model]]\nname = \"m\"\nrepo = \"org/m\"\nport = 8800\nsize = \"41GB\"\n{more}\n[model.cluster]\n\
             backend = \"mpi\"\nhosts = [{{ ssh = \"laptop\", ranks = 2 }}, {{ ssh = \"studio\" }}, {{ ssh = \"mini\" }}]\n"
        );
        fixtures::parsed(&text)
    }

    #[test]
    fn every_host_holds_its_ranks_and_the_sum_is_this_machines_promise() {
        let files = fixtures::files_32b();
        let found = outlook(&model(""), &files, None, Platform::Metal, |_| None).unwrap();
        let hosts: Vec<_> = found.hosts.iter().map(|host| (host.host.as_str(), host.ranks.len())).collect();
        assert_eq!(hosts, [("laptop", 2), ("studio", 1), ("mini", 1)]);
        let [laptop, studio, mini] = found.hosts.as_slice() else { panic!("three hosts") };
        assert_eq!(laptop.estimate.peak.0, 2 * studio.estimate.peak.0);
        assert_eq!(studio.estimate.peak, mini.estimate.peak);
        assert_eq!(found.estimate.as_ref(), Some(&laptop.estimate));
        assert!(laptop.estimate.terms[0].name.starts_with("rank 0: "));
        let alone = Model { cluster: None, ..model("") };
        let whole = outlook(&alone, &files, None, Platform::Metal, |_| None).unwrap();
        assert!(studio.estimate.peak < whole.estimate.unwrap().peak);
    }

    #[test]
    fn a_declared_size_is_divided_among_the_ranks_and_an_unknown_one_is_not_guessed() {
        let declared = ModelFiles::Declared(Bytes::gb(41));
        let found = outlook(&model(""), &declared, None, Platform::Metal, |_| None).unwrap();
        assert_eq!(found.hosts[1].estimate.peak, Bytes(10_250_000_000));
        let unknown = outlook(&model(""), &ModelFiles::Unknown, None, Platform::Metal, |_| None).unwrap();
        assert_eq!((unknown.hosts.len(), unknown.estimate), (0, None));
    }
}
