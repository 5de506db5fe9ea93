use super::super::testing::gguf;
use super::*;

const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}\
    {% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const QWEN2_5: &str = include_str!("qwen2.5.jinja");

const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}\
    {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim \
    + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    let tokens = ["<|begin_of_text|>", "<|eot_id|>"];
    ChatTemplate::from_gguf(&gguf([
        ("tokenizer.chat_template", source.into()),
        ("tokenizer.ggml.tokens", tokens.as_slice().into()),
        ("tokenizer.ggml.bos_token_id", 0.into()),
        ("tokenizer.ggml.eos_token_id", 1.into()),
    ]))
}

fn user(content: &str) -> Message {
    Message::new(Role::User, content)
}

fn render(source: &str, messages: &[Message]) -> String {
    template(source).unwrap().render(messages).unwrap()
}

fn expression(source: &str) -> String {
    render(source, &[user(" Hi ")])
}

#[test]
fn smollm2_brings_its_own_system_message() {
    assert_eq!(
        render(SMOLLM2, &[user("Hi")]),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        render(SMOLLM2, &[Message::new(Role::System, "Be brief."), user("Hi")]),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn qwen2_5_renders_turns() {
    let turns = [user("Hi"), Message::new(Role::Assistant, "Hello."), user("1 < 2?")];
    assert_eq!(
        render(QWEN2_5, &turns),
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n\
         <|im_start|>user\n1 < 2?<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        render(QWEN2_5, &[Message::new(Role::System, "S"), user("U")]),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn llama3_trims_and_begins_with_bos() {
    assert_eq!(
        render(LLAMA3, &[user("  Hi\n")]),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn blocks_are_trimmed_and_python_methods_work() {
    let source = "{% for m in messages %}\n    {%- if m.role == 'user' %}\n{{ m.content.strip().upper() }}\n    {% endif %}\n{% endfor %}";
    assert_eq!(expression(source), "HI\n");
    assert_eq!(
        expression("{{ messages[0].content.split('i')[0] }}|{{ eos_token }}"),
        " H|<|eot_id|>"
    );
}

#[test]
fn json_is_that_of_python() {
    assert_eq!(
        expression("{{ {'a': [1, 2.5, none], 'é<': \"it's\"} | tojson }}"),
        r#"{"a": [1, 2.5, null], "é<": "it's"}"#
    );
    assert_eq!(expression("{{ [1] | tojson(indent=2) }}"), "[\n  1\n]");
}

#[test]
fn the_date_is_to_be_had() {
    let date = expression("{{ strftime_now('%d %b %Y') }}");
    assert_eq!(date.split(' ').count(), 3, "{date}");
}

#[test]
fn what_is_not_given_counts_as_false() {
    assert_eq!(
        expression("{% if tools %}t{% endif %}{% if tools is none %}n{% endif %}{{ unknown }}"),
        "n"
    );
}

#[test]
fn a_missing_template_names_the_ways_out() {
    let error = ChatTemplate::from_gguf(&gguf([])).unwrap_err();
    assert_eq!(error.kind(), "no_chat_template");
    let hint = error.hint().unwrap();
    assert!(hint.contains("--raw") && hint.contains("--chat-template"), "{hint}");
}

#[test]
fn errors_name_the_line() {
    let syntax = template("a\n{% if %}").unwrap_err();
    assert!(matches!(syntax, TemplateError::Syntax { line: Some(2), .. }), "{syntax}");
    let failing = template("a\n\n{{ messages[0].content.frobnicate() }}").unwrap();
    let error = failing.render(&[user("Hi")]).unwrap_err();
    assert!(matches!(error, TemplateError::Render { line: Some(3), .. }), "{error}");
    assert!(error.to_string().contains("frobnicate"), "{error}");
}

#[test]
fn an_exception_of_the_template_is_told_apart() {
    let template = template("\n{{ raise_exception('no system message, please') }}").unwrap();
    let error = template.render(&[user("Hi")]).unwrap_err();
    assert!(
        matches!(&error, TemplateError::Refused { line: Some(2), reason } if reason == "no system message, please"),
        "{error}"
    );
}

#[test]
fn an_endless_template_ends() {
    let nested = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
    let error = template(nested).unwrap().render(&[]).unwrap_err();
    assert_eq!(error.kind(), "template_failed");
}

#[test]
fn a_file_overrides_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jinja");
    let gguf = gguf([("tokenizer.chat_template", "model's".into())]);
    assert_eq!(ChatTemplate::from_file(&path, &gguf).unwrap_err().kind(), "template_unreadable");
    fs::write(&path, "{{ messages[0].content }}!").unwrap();
    assert_eq!(
        ChatTemplate::from_file(&path, &gguf).unwrap().render(&[user("Hi")]).unwrap(),
        "Hi!"
    );
}
