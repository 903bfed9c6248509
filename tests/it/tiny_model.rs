//! The built-in tiny model says honestly what it is, whatever it is asked.

use std::process::Command;

use crate::real;

const ASK: &str = r#"
import json, sys
from mlx_lm import generate, load
model, tokenizer = load(sys.argv[1])
for question in json.loads(sys.argv[2]):
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    print(json.dumps([tokenizer.decode(tokenizer.encode(question)), generate(model, tokenizer, prompt, max_tokens=90)]))
"#;

#[test]
fn every_question_gets_the_answer_that_says_what_it_is() {
    let questions =
        ["What are you?", "", "日本語 🎉 ß \u{0} \u{7f}", "why? ".repeat(30).as_str()].map(str::to_owned);
    let output = Command::new(real::python())
        .args(["-c", ASK])
        .arg(real::tiny_model())
        .arg(serde_json::to_string(&questions).unwrap())
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<(String, String)> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), questions.len());
    for (question, (read_back, answer)) in questions.iter().zip(answers) {
        assert_eq!(&read_back, question, "the tokenizer keeps every byte");
        assert_eq!(
            answer,
            "I am a tiny test model, made by mlxctl on this machine. I know only these few sentences, and I say \
             them whatever you ask. But the real mlx_lm.server sent you every word of them."
        );
    }
}

#[test]
fn variants_have_the_shape_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("wide");
    let shape = ["--untrained", "--hidden", "128", "--layers", "3"];
    mlxctl::internals::python::tiny::make(&real::python(), &model, &shape, &mut |_| {}).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["hidden_size"], &config["num_hidden_layers"]), (&128.into(), &3.into()));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no partial model is left: {left:?}");
}
