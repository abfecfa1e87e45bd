//! `fairshare circuits list|build|test|close` and `fairshare relay on|off|status`.

use super::{amount, lines, short, text};
use crate::api::Client;
use crate::cli::{CircuitBuild, CircuitTest, Circuits, Client as Options, Path, Relay};
use crate::failure::{Failure, Outcome};
use crate::process::Interrupt;
use crate::{print, show};
use fairshare_crypto::PublicKey;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

/// Pause between two looks for a circuit.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn run(command: &Circuits) -> Outcome {
    match command {
        Circuits::List(options) => list(options),
        Circuits::Build(args) => build(args),
        Circuits::Test(args) => test(args),
        Circuits::Close(args) => {
            let closed = Client::find(&args.client)?.delete(&format!("/api/v1/circuits/{}", args.circuit))?;
            print::one(args.client.json, &closed, || format!("circuit {} is closed", args.circuit));
            Ok(())
        }
    }
}

fn list(options: &Options) -> Outcome {
    let client = Client::find(options)?;
    let view = json!({ "own": client.get("/api/v1/circuits")?, "relay": client.get("/api/v1/relay")? });
    print::one(options.json, &view, || {
        format!(
            "own\n{}\nfor others\n{}",
            lines(&view["own"], line, "  no circuit"),
            lines(&view["relay"]["joined"], joined_line, "  nothing passes here"),
        )
    });
    Ok(())
}

fn line(circuit: &Json) -> String {
    let hops = circuit["path"].as_array().map_or(&[] as &[Json], Vec::as_slice);
    let path: Vec<_> = hops
        .iter()
        .map(|hop| format!("{} {}", short(text(hop, "tunnel_key")), text(hop, "address")))
        .collect();
    format!(
        "  {:>10}  {:<12} {:<9} {:>5} s  up {}, down {}  you -> {}",
        circuit["circuit"],
        text(circuit, "purpose"),
        text(circuit, "state"),
        circuit["age_s"],
        show::bytes(amount(circuit, "up_bytes")),
        show::bytes(amount(circuit, "down_bytes")),
        path.join(" -> "),
    )
}

fn joined_line(joined: &Json) -> String {
    let onward = match joined["to"].is_null() {
        true => String::new(),
        false => format!(" -> {}", text(&joined["to"], "address")),
    };
    format!(
        "  {:<10} {:>5} s  {}  {} -> here{onward}",
        text(joined, "part"),
        joined["age_s"],
        show::bytes(amount(joined, "bytes")),
        text(&joined["from"], "address"),
    )
}

/// Has circuits built and waits until one stands.
fn stand(client: &Client, path: &Path) -> Outcome<(u64, Json)> {
    let wish = if path.path.is_empty() {
        json!({ "hops": path.hops })
    } else {
        json!({ "path": path.path.iter().map(|key| tunnel_key(key)).collect::<Outcome<Vec<_>>>()? })
    };
    let built = client.post("/api/v1/circuits", &wish)?;
    let group = built["group"].as_u64().unwrap_or_default();
    let (start, interrupt) = (Instant::now(), Interrupt::listen()?);
    loop {
        let circuits = client.get("/api/v1/circuits")?;
        let ready = |one: &&Json| one["group"] == group && one["state"] == "ready";
        if let Some(circuit) = circuits.as_array().into_iter().flatten().find(ready) {
            return Ok((group, circuit.clone()));
        }
        if start.elapsed() >= Duration::from_secs(path.timeout) || interrupt.came() {
            // It is of no use any more; if it cannot be closed, the node says why in its own time.
            let _ = client.delete(&format!("/api/v1/circuits/groups/{group}"));
            return Err(Failure::failed("circuit", "no circuit stands after the given time").hint(
                "fairshare relay status shows the relays that are known; all hops must be among them",
            ));
        }
        std::thread::sleep(LOOK);
    }
}

/// A tunnel key as the API takes it; a typing error is found before anything is asked.
fn tunnel_key(given: &str) -> Outcome<String> {
    let parsed: Result<PublicKey, _> = given.parse();
    parsed.map(|key| key.to_string()).map_err(|error| Failure::bad_use("key", format!("`{given}`: {error}")))
}

fn build(args: &CircuitBuild) -> Outcome {
    let client = Client::find(&args.client)?;
    let (_, circuit) = stand(&client, &args.path)?;
    print::one(args.client.json, &circuit, || line(&circuit).trim_start().to_owned());
    Ok(())
}

fn test(args: &CircuitTest) -> Outcome {
    let client = Client::find(&args.client)?;
    let (group, circuit) = stand(&client, &args.path)?;
    let tested =
        client.post(&format!("/api/v1/circuits/groups/{group}/test"), &json!({ "bytes": args.bytes }));
    // The test is over either way.
    let _ = client.delete(&format!("/api/v1/circuits/groups/{group}"));
    let mut tested = tested?;
    tested["path"] = circuit["path"].clone();
    print::one(args.client.json, &tested, || {
        format!(
            "{} in {:.0} ms: {}/s, there and back {:.1} ms",
            show::bytes(amount(&tested, "received_bytes")),
            tested["took_ms"].as_f64().unwrap_or_default(),
            show::bytes(amount(&tested, "rate_bytes")),
            tested["round_trip_ms"].as_f64().unwrap_or_default(),
        )
    });
    Ok(())
}

/// `fairshare relay`.
pub(crate) fn relay(command: &Relay) -> Outcome {
    let (options, change) = match command {
        Relay::Status(options) => (options, None),
        Relay::On(args) => (&args.client, Some(json!({ "relay": true, "exit": args.exit }))),
        Relay::Off(options) => (options, Some(json!({ "relay": false, "exit": false }))),
    };
    let client = Client::find(options)?;
    let status = match change {
        None => client.get("/api/v1/relay")?,
        Some(change) => client.patch("/api/v1/relay", &change)?,
    };
    print::one(options.json, &status, || relay_text(&status));
    Ok(())
}

fn relay_text(status: &Json) -> String {
    let words = |list: &Json| {
        let words: Vec<_> = list.as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    };
    let candidate = |one: &Json| {
        format!(
            "  {}  {:<21} offers {}",
            short(text(one, "tunnel_key")),
            text(one, "address"),
            words(&one["offers"])
        )
    };
    format!(
        "tunnel key  {}\nthis node offers {}; it lasts until the node stops: [tunnel] relay in the configuration stays\n\
         passing\n{}\nrelays that are known\n{}",
        text(status, "tunnel_key"),
        words(&status["offers"]),
        lines(&status["joined"], joined_line, "  nothing"),
        lines(&status["candidates"], candidate, "  none yet"),
    )
}
