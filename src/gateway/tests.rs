use super::*;
use crate::registry::Registry;

fn registry(text: &str) -> Registry {
    Registry::parse(std::path::Path::new("/etc/mlxctl/models.toml"), text).unwrap()
}

fn seed() -> Facts {
    Facts::new(&registry(include_str!("../../config/models.toml")), None).unwrap()
}

#[test]
fn roles_go_to_the_models_named_so_else_to_the_first_that_fit() {
    let facts = seed();
    assert_eq!((facts.reasoning.as_deref(), facts.large.as_deref()), (Some("32b"), Some("70b")));
    let model = |name: &str, port: u16, more: &str| {
        format!("[[model]]\nname = \"{name}\"\nrepo = \"x/{name}\"\nport = {port}\n{more}\n")
    };
    let text = model("a", 1, "") + &model("b", 2, "start = \"always\"") + &model("c", 3, "");
    let facts = Facts::new(&registry(&text), None).unwrap();
    assert_eq!((facts.reasoning.as_deref(), facts.large.as_deref()), (Some("b"), Some("a")));
    assert_eq!(facts.stand_ins("c"), ["b", "a"]);
    let facts = Facts::new(&registry(&model("only", 1, "aliases = [\"large\"]")), None).unwrap();
    assert_eq!((facts.reasoning.as_deref(), facts.large.as_deref()), (None, Some("only")));
}

#[test]
fn an_address_that_clients_cannot_use_is_not_printed() {
    let text =
        "[network]\nhost = \"0.0.0.0\"\nexpose = true\n[[model]]\nname = \"a\"\nrepo = \"x/a\"\nport = 80\n";
    assert_eq!(Facts::new(&registry(text), None).unwrap_err().host, "0.0.0.0");
    assert_eq!(
        Facts::new(&registry(text), Some("mac.local")).unwrap().backends[0].url,
        "http://mac.local:80"
    );
    assert_eq!(Facts::new(&registry(text), Some("fd00::1")).unwrap().backends[0].url, "http://[fd00::1]:80");
}

#[test]
fn the_module_holds_this_registry_and_nothing_of_the_example() {
    let mut facts = seed();
    facts.backends[0].url = "http://elsewhere:1".into();
    facts.backends[1].context = Some(4096);
    facts.large = None;
    let text = render(Format::Python, &facts);
    assert!(text.starts_with("\"\"\"The MLX backends"), "{text}");
    assert!(text.contains("Backend(\"32b\", \"http://elsewhere:1\", (\"32b\", \"reasoning\", "), "{text}");
    assert!(text.contains("on_demand=True, context=4096),"), "{text}");
    assert!(text.contains("LARGE = None\n"), "{text}");
    assert!(!text.contains("192.168.132.21:8800") && !text.contains("registry>"), "{text}");
    assert!(text.contains("async def send("), "{text}");
}

#[test]
fn every_name_of_a_model_falls_back_to_the_other_role() {
    let mut facts = seed();
    facts.backends.iter_mut().for_each(|backend| backend.context = None);
    let text = render(Format::Litellm, &facts);
    let line = |text: &str, start: &str| {
        text.lines().find(|line| line.trim_start().starts_with(start)).unwrap().trim().to_owned()
    };
    assert!(line(&text, "fallbacks:").contains("{\"large\": [\"32b\"]}"), "{text}");
    assert!(line(&text, "fallbacks:").contains("{\"reasoning\": [\"70b\"]}"), "{text}");
    assert_eq!(line(&text, "context_window_fallbacks:"), "context_window_fallbacks: []", "no limit is known");
    facts.backends[0].context = Some(8192);
    let text = render(Format::Litellm, &facts);
    let long = line(&text, "context_window_fallbacks:");
    assert!(long.contains("{\"32b\": [\"70b\"]}") && !long.contains("{\"70b\""), "{long}");
    assert!(text.contains("max_input_tokens: 8192"), "{text}");
    let shipped = render(Format::Litellm, &seed());
    let long = line(&shipped, "context_window_fallbacks:");
    assert!(
        long.contains("{\"70b\": [\"32b\"]}") && !long.contains("{\"32b\""),
        "the model with the longer context stands in: {long}"
    );
    facts.needs_key = true;
    assert!(render(Format::Litellm, &facts).contains("api_key: \"os.environ/MLX_API_KEY\""));
}

#[test]
fn no_name_is_listed_twice_and_each_reaches_the_gate_unchanged() {
    let text = "[[model]]\nname = \"a\"\nrepo = \"x/y\"\nport = 1\nstart = \"always\"\n\
                aliases = [{ name = \"fast\", set = { max_tokens = 9 } }]\n\
                [[model]]\nname = \"b\"\nrepo = \"X/y\"\nport = 2\n";
    let facts = Facts::new(&registry(text), None).unwrap();
    assert_eq!(facts.backends[0].names, ["a", "fast", "x/y"]);
    assert_eq!(facts.backends[1].names, ["b"]);
    let text = render(Format::Litellm, &facts);
    for name in ["a", "fast", "x/y", "b"] {
        let count = |wanted: &str| text.lines().filter(|line| line.trim() == wanted).count();
        assert_eq!(count(&format!("- model_name: \"{name}\"")), 1, "{text}");
        assert_eq!(count(&format!("model: \"openai/{name}\"")), 1, "{text}");
        assert_eq!(text.matches(&format!("{{\"{name}\": [")).count(), 1, "{text}");
    }
}

#[test]
fn variables_and_json_name_both_backends_of_the_plan() {
    let facts = seed();
    let env = render(Format::Env, &facts);
    for line in [
        "MLX_REASONING_BACKEND=http://192.168.132.21:8800",
        "MLX_LARGE_BACKEND=http://192.168.132.21:8801",
        "MLX_BACKEND_70B=http://192.168.132.21:8801",
    ] {
        assert!(env.lines().any(|found| found == line), "{line} in {env}");
    }
    let json: serde_json::Value = serde_json::from_str(&render(Format::Json, &facts)).unwrap();
    assert_eq!((&json["schema"], &json["reasoning"]), (&1.into(), &"32b".into()));
    assert_eq!(json["backends"][1]["on_demand"], true);
    assert_eq!(json["backends"][1]["context"], 12_288);
}
