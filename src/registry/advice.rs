//! Remarks on what is valid but probably not intended.

use super::Registry;

/// Remarks on a valid registry, one line each; none is a reason to reject it.
pub(crate) fn advice(registry: &Registry) -> Vec<String> {
    let mut notes = Vec::new();
    let network = &registry.network;
    let host = network.host;
    if !network.allow_from.is_empty()
        && !host.is_loopback()
        && !host.is_unspecified()
        && !network.allow_from.iter().any(|net| net.contains(&host))
    {
        notes.push(format!(
            "network.allow_from does not include {host}'s own network: its neighbours are refused"
        ));
    }
    if network.allow_from.is_empty() && !network.require_key && !host.is_loopback() {
        notes.push(format!(
            "anyone who can reach {host} can use the models: set network.allow_from or require_key"
        ));
    }
    let pressure = &registry.pressure;
    if pressure.pace.is_some() && pressure.yield_to.is_empty() {
        notes.push("memory.pace does nothing without memory.yield, the programs that it is for".to_owned());
    }
    for model in &registry.models {
        let (name, server) = (&model.name, &model.server);
        if server.max_tokens.is_none() {
            notes.push(format!(
                "{name}: answers to requests that set no limit end after 512 tokens, which may cut a model off while \
                 it thinks: set server.max_tokens"
            ));
        }
        if server.num_draft_tokens.is_some() && server.draft_model.is_none() {
            notes.push(format!("{name}: num_draft_tokens does nothing without draft_model"));
        }
        if server.kv_bits.is_none() && (server.kv_group_size.is_some() || server.quantized_kv_start.is_some())
        {
            notes.push(format!("{name}: kv_group_size and quantized_kv_start do nothing without kv_bits"));
        }
        let single = [("kv_bits", server.kv_bits.is_some()), ("draft_model", server.draft_model.is_some())];
        for (key, _) in single.iter().filter(|(_, set)| *set && model.memory.concurrency > 1) {
            notes.push(format!("{name}: {key} turns off batching, so requests are served one at a time"));
        }
        if server.extra_args.iter().any(|arg| arg == "--trust-remote-code") {
            notes.push(format!(
                "{name}: --trust-remote-code lets code in the model's files run on this machine"
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::load::seed;

    #[test]
    fn the_example_deployment_gets_no_remark() {
        assert_eq!(advice(&seed()), Vec::<String>::new());
    }

    #[test]
    fn an_allow_list_without_its_own_network_gets_a_remark() {
        let mut registry = seed();
        registry.network.allow_from = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(advice(&registry).len(), 1);
        registry.network.allow_from.clear();
        assert!(advice(&registry)[0].contains("anyone who can reach 192.168.132.21"));
    }

    #[test]
    fn a_pace_without_programs_gets_a_remark() {
        let mut registry = seed();
        registry.pressure.pace = Some(crate::units::Percent(50));
        assert!(advice(&registry)[0].starts_with("memory.pace does nothing"));
        registry.pressure.yield_to = vec!["Civ5XP".to_owned()];
        assert_eq!(advice(&registry), Vec::<String>::new());
    }

    #[test]
    fn an_option_that_stops_batching_gets_a_remark() {
        let mut registry = seed();
        registry.models[0].server.kv_bits = Some(8);
        registry.models[0].memory.concurrency = 2;
        assert_eq!(
            advice(&registry),
            ["32b: kv_bits turns off batching, so requests are served one at a time"]
        );
    }

    #[test]
    fn a_model_without_a_default_answer_length_gets_a_remark() {
        let mut registry = seed();
        registry.models[1].server.max_tokens = None;
        let notes = advice(&registry);
        assert!(
            notes.len() == 1 && notes[0].starts_with("70b: ") && notes[0].contains("max_tokens"),
            "{notes:?}"
        );
    }
}
