//! `hindsight bench decode`, `prefill` and `ipc` as a user calls them.

mod support;

use serde_json::Value;
use support::{hindsight, model, stderr};

fn bench(arguments: &[&str]) -> Value {
    let output = hindsight().arg("bench").args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A measurement that runs a model.
fn bench_model(part: &str, arguments: &[&str]) -> Value {
    let model = model();
    bench(&[&[part, "--model", model.to_str().unwrap()], arguments].concat())
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

#[test]
fn decode_steps_are_timed_at_every_depth_and_their_stages_make_up_the_step() {
    let rows = bench_model(
        "decode",
        &["--depth", "600,0", "-n", "4", "--repeats", "2", "--dense-tokens", "0"],
    );
    let rows = rows.as_array().unwrap();
    let settings: Vec<_> = rows
        .iter()
        .map(|row| (row["depth"].as_u64().unwrap(), row["attention"].as_str().unwrap()))
        .collect();
    let attentions = ["full", "exact", "lfps"];
    let expected: Vec<_> =
        [0, 600].into_iter().flat_map(|depth| attentions.map(|name| (depth, name))).collect();
    assert_eq!(settings, expected);
    for row in rows {
        let step = &row["step_us"];
        let parts = ["projections", "attention", "waiting", "sampling"];
        let sum: f64 = parts.iter().map(|part| number(step, part)).sum();
        assert!((sum - number(step, "total")).abs() < 0.01 * sum, "{row}");
        assert!(parts[..2].iter().all(|part| number(step, part) > 0.0), "{row}");
        let (least, most) = (number(row, "tokens_per_s_min"), number(row, "tokens_per_s_max"));
        assert!((least..=most).contains(&number(row, "tokens_per_s")), "{row}");
        assert_eq!(row["synthetic_kv"], false);
    }
    let link = |at: usize| number(&rows[at], "link_bytes_per_token");
    assert!(link(5) < link(3), "lfps ships less than full attention reads");
    assert!(number(&rows[3]["step_us"], "selection") == 0.0, "{}", rows[3]);
}

#[test]
fn keys_and_values_can_be_repeated_up_to_a_depth_that_nobody_reads() {
    let rows = bench_model(
        "decode",
        &["--depth", "6000", "--synthetic-kv", "-a", "full,lfps", "-n", "4", "--repeats", "1"],
    );
    let (full, lfps) = (&rows[0], &rows[1]);
    assert!(full["synthetic_kv"] == true && lfps["synthetic_kv"] == true);
    let read = number(full, "link_bytes_per_token");
    // Keys and values of 30 layers and 3 KV heads, 64 elements of two bytes each: 23,040 bytes a token.
    assert!((6000.0 * 23_040.0..6010.0 * 23_040.0).contains(&read), "{full}");
    assert!(number(lfps, "link_bytes_per_token") < 0.6 * read, "{lfps}");
}

#[test]
fn prompts_of_several_lengths_are_timed() {
    let rows = bench_model("prefill", &["--tokens", "32,200", "--repeats", "2"]);
    let lengths: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| row["tokens"].as_u64().unwrap()).collect();
    assert_eq!(lengths, [32, 32, 200, 200]);
    assert!(rows.as_array().unwrap().iter().all(|row| number(row, "tokens_per_s") > 0.0));
}

#[test]
fn messages_are_timed_by_ring_socket_and_pipe() {
    let report = bench(&["ipc", "--messages", "4000"]);
    let rows = report["rows"].as_array().unwrap();
    let transports: Vec<_> = rows.iter().map(|row| row["transport"].as_str().unwrap()).collect();
    assert_eq!(transports, ["ring", "unix-socket", "pipe"]);
    for row in rows {
        let median = number(row, "round_trip_us_p50");
        assert!(median > 0.0 && median <= number(row, "round_trip_us_p99"), "{row}");
    }
}
