//! All parsers of what comes from the network, or from files that others write, each with a name and with what must hold for
//! any input. For tests that feed them random input, and for the fuzzer in `fuzz/`.

use serde_json::json;

pub use crate::claims::JARGON;
use crate::claims::{Claim, LONGEST, SECRET, holds, plain, sound};
use crate::error::Kind;
use crate::settings::{Layer, Merged, Settings, Source};
use crate::{ec2, facts, host, properties, role, secrets, step, titus, userdata};

/// A parser's name, and the parser with a check of its result.
pub type Parser = (&'static str, fn(&[u8]) -> Claim);

/// All parsers.
pub const PARSERS: &[Parser] = &[
    ("user data", user_data),
    ("settings", |bytes| settings(&text(bytes))),
    ("role", |bytes| role(&text(bytes))),
    ("drop-in", |bytes| {
        let role = "description = ''\n[[step]]\nid = 'one'\nphase = 'boot'\nfile = { path = '/x', content = '' }\n";
        let drop_in = vec![("x.d/x.toml".into(), text(bytes))];
        let read = role::Role::assemble("x", "x.toml", role.into(), drop_in);
        read.err().map_or(Ok(()), |error| sound(&error, Kind::Config, "x.d/x.toml"))
    }),
    ("facts", facts),
    ("metadata", ec2::imds::read_as_any_item),
    ("EC2 API", ec2::api::read_as_any_answer),
    ("Mesos agents", |bytes| {
        drop(titus::checks::count_agents(host::json::Bounded::new(bytes), "10.0.0.1:5051"));
        Ok(())
    }),
    ("Mesos metrics", |bytes| {
        drop(serde_json::from_reader::<_, step::wait::Metrics>(host::json::Bounded::new(bytes)));
        Ok(())
    }),
    ("instance groups", |bytes| {
        drop(titus::instance_groups::has_group(host::json::Bounded::new(bytes), "a"));
        Ok(())
    }),
    ("ZooKeeper srvr", |bytes| srvr(&text(bytes))),
    ("ZooKeeper conf", |bytes| conf(&text(bytes))),
    ("properties", java_properties),
    ("OpenPGP", |bytes| {
        drop(host::apt::openpgp::fingerprints(bytes));
        Ok(())
    }),
    ("deb control", |bytes| deb(&text(bytes))),
    ("apt", |bytes| {
        host::apt::read_as_any_output(&text(bytes));
        Ok(())
    }),
    ("apt's progress", |bytes| {
        let read = host::apt::progress::last_progress(&text(bytes));
        holds(read.is_none_or(|progress| progress.percent <= 100), || "more than all".into())
    }),
    ("apt's sources", |bytes| {
        host::apt::sources::read_as_any_file(&text(bytes));
        Ok(())
    }),
    ("mounts", |bytes| {
        drop(host::fs::mounts::Mounts::parse(&text(bytes), ""));
        Ok(())
    }),
    ("grub.cfg", |bytes| {
        step::kernel_argument::read_as_any_menu(&text(bytes));
        Ok(())
    }),
    ("systemd", |bytes| {
        host::systemd::pid1::read_as_any_answer(bytes);
        Ok(())
    }),
    ("unit file", |bytes| {
        drop(host::systemd::unit_files::install_section(&text(bytes)));
        Ok(())
    }),
    ("accounts", |bytes| {
        drop(host::fs::accounts::record(&text(bytes), "root"));
        Ok(())
    }),
    ("vpc tool", |bytes| {
        _ = titus::checks::decisive_line(&text(bytes));
        Ok(())
    }),
    ("Docker Engine", host::docker::read_as_any_answer),
    ("registry credentials", |bytes| {
        host::docker::auth::read_as_any_file(bytes)?;
        // After a password that was read, any bytes may follow.
        let with_password = [br#"{"auths":{"h":{"username":"u","password":""#, SECRET.as_bytes(), br#""}},"#, bytes];
        host::docker::auth::read_as_any_file(&with_password.concat())
    }),
    ("message", |bytes| message(&text(bytes))),
];

fn user_data(bytes: &[u8]) -> Claim {
    holds(!userdata::describe(bytes).is_empty(), || "user data looks like nothing".into())?;
    match userdata::settings(bytes) {
        Ok(None) => Ok(()),
        Ok(Some(text)) => {
            holds(text.len() <= 1 << 20, || format!("{} bytes of settings", text.len()))?;
            let _ = userdata::arguments(&text);
            settings(&text)
        }
        Err(error) => sound(&error, Kind::Config, "user data"),
    }
}

fn settings(text: &str) -> Claim {
    // A secret is in a line before the error or after it.
    let secret = format!("proxy.http = \"http://me:{SECRET}@h:1\"\n");
    for text in [text.to_owned(), format!("{secret}{text}"), format!("{text}\n{secret}")] {
        let layer = match Layer::parse(Source::UserData, &text) {
            Ok(layer) => layer,
            Err(error) => {
                plain(&error, &text)?;
                sound(&error, Kind::Config, "user data")?;
                continue;
            }
        };
        // The form in which `--save` writes the settings, and in which a run hands them down to later runs.
        let mut merged = Merged::default();
        merged.add(&layer);
        let written = merged.table.to_string();
        let again = Layer::parse(Source::UserData, &written)
            .map_err(|error| format!("what was read cannot be read again: {error}\n{written}"))?;
        let mut read = Merged::default();
        read.add(&again);
        let differs = || format!("read as {:?}, then as {:?}", merged.table, read.table);
        holds(read.table == merged.table, differs)?;

        let mut whole = Merged::default();
        whole.add(Layer::built_in().map_err(|error| error.to_string())?);
        whole.add(&layer);
        match whole.settings() {
            Ok(settings) => {
                let written = json!(settings);
                let read: Settings = serde_json::from_value(written.clone()).map_err(|e| e.to_string())?;
                holds(json!(read) == written, || format!("settings {written} are read as {}", json!(read)))?;
            }
            Err(error) => sound(&error, Kind::Config, "")?,
        }
    }
    Ok(())
}

fn role(text: &str) -> Claim {
    match role::Role::parse("x", "x.toml", text.to_owned()) {
        Ok(role) => {
            holds(role.text() == text, || "the role's text is another".into())?;
            role.defaults().err().map_or(Ok(()), |error| sound(&error, Kind::Config, ""))
        }
        Err(error) => plain(&error, text).and_then(|()| sound(&error, Kind::Config, "x.toml")),
    }
}

fn facts(bytes: &[u8]) -> Claim {
    let Ok(facts) = serde_json::from_slice::<facts::Facts>(bytes) else { return Ok(()) };
    let written = serde_json::to_vec(&facts).map_err(|e| e.to_string())?;
    let read = serde_json::from_slice::<facts::Facts>(&written).map_err(|e| format!("{e}: {}", text(&written)))?;
    holds(format!("{read:?}") == format!("{facts:?}"), || format!("{facts:?} are read as {read:?}"))
}

fn srvr(text: &str) -> Claim {
    use titus::zookeeper::ServerState;
    match ServerState::parse(text) {
        None => Ok(()),
        Some(ServerState::Nothing) => Err("a text that says nothing at all".into()),
        Some(ServerState::Waiting) => {
            holds(text.contains("not currently serving requests"), || "a server that waits without words".into())
        }
        Some(answer) => holds(text.contains("Mode:"), || format!("{answer:?} without a mode")),
    }
}

fn conf(text: &str) -> Claim {
    let number = step::ensemble::server_number(text);
    let written = number.map(|number| format!("clientPort=2181\nserverId={number}\n"));
    let again = written.as_deref().and_then(step::ensemble::server_number);
    holds(again == number, || format!("the number {number:?} is read as {again:?}"))
}

fn java_properties(bytes: &[u8]) -> Claim {
    let read = match properties::read(bytes) {
        Ok(read) => read,
        Err(error) => return sound(&error, Kind::Unavailable, "line "),
    };
    let edit = |contents: &[u8], wanted: &[(String, String)]| {
        properties::edit(contents, wanted).map_err(|error| format!("what was read cannot be edited: {error}"))
    };
    // A text in Java can be invalid in Rust, but a file is edited with valid texts.
    let texts =
        |(key, value): (&Vec<u16>, &Vec<u16>)| Some((String::from_utf16(key).ok()?, String::from_utf16(value).ok()?));
    let own: Vec<(String, String)> = read.iter().filter_map(texts).collect();
    let same = edit(bytes, &own)?;
    holds(same.set == 0, || format!("{} of its own values are others", same.set))?;
    holds(edit(bytes, &[])?.contents == bytes, || "nothing to set, and other contents".into())?;

    let wanted = [("a.b".to_owned(), " c\\=é\t".to_owned())];
    let edited = edit(bytes, &wanted)?;
    let after = properties::read(&edited.contents).map_err(|error| format!("not readable after an edit: {error}"))?;
    let mut expected = read.clone();
    expected.insert("a.b".encode_utf16().collect(), wanted[0].1.encode_utf16().collect());
    holds(after == expected, || format!("after an edit {after:?}, not {expected:?}"))?;
    let again = edit(&edited.contents, &wanted)?;
    holds(again.contents == edited.contents && again.set == 0, || "a second edit changes something".into())
}

fn deb(text: &str) -> Claim {
    match host::apt::dpkg::parse(text) {
        Ok(deb) => {
            let fields = [&deb.package, &deb.version, &deb.architecture];
            let is_plain = |field: &&String| !field.is_empty() && !field.contains(['/', ' ', '\n', '$', '\'', '"']);
            holds(fields.iter().all(is_plain), || format!("{deb:?}"))?;
            let written =
                format!("Package: {}\nVersion: {}\nArchitecture: {}\n", deb.package, deb.version, deb.architecture);
            holds(host::apt::dpkg::parse(&written).as_ref() == Ok(&deb), || format!("{deb:?} cannot be read again"))
        }
        Err(why) => holds(why.contains("field") && why.len() <= LONGEST, || format!("{} bytes: {why}", why.len())),
    }
}

fn message(text: &str) -> Claim {
    let beside = [
        format!("http://me:{SECRET}@h/ {text}"),
        format!("{text}\nhttp://me:{SECRET}@h/"),
        format!("password=\"{SECRET}\"\n{text}"),
        format!("{text}\nAuthorization: Bearer {SECRET}"),
    ];
    beside.iter().try_for_each(|text| {
        let masked = secrets::masked(text);
        holds(!masked.contains(SECRET), || format!("the secret is in: {masked}"))
    })
}

/// Reads bytes as a text, as the program reads the output of commands and answers of services.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_must_hold_of_any_bytes_and_any_text_holds(bytes in any::<Vec<u8>>(), text in "\\PC{0,200}") {
            for (name, parse) in PARSERS {
                for input in [bytes.as_slice(), text.as_bytes()] {
                    let claim = parse(input);
                    prop_assert!(claim.is_ok(), "{}: {:?}", name, claim);
                }
            }
        }
    }
}
