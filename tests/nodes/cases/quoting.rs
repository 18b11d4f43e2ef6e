//! What templates write for systemd, read back by systemd.

use titus_bootstrap::template::{quote_environment_file, quote_unit};

use crate::harness::node::Node;

#[test]
fn systemd_reads_back_what_was_quoted() {
    let in_environment_files = [
        "plain",
        "two words",
        "quote\"s",
        "it's",
        "back\\slash",
        "$HOME ${HOME}",
        "`id`",
        "#hash",
        ";semicolon",
        " leading",
        "trailing ",
        "a=b",
        "%n %%",
        "ü€",
        "~",
        "*?[x]",
        "zk://h:1,i:2/p",
        "mem:1;disk:2",
        "'",
        "\"",
        "\\",
        "\\n",
        "$",
        "a'b\"c\\d",
    ];
    let in_units = ["plain", "http://u:p%40w@proxy:3128/", "100%", "%n", "a=b", "127.0.0.1:4243", "ü"];
    let mut file = String::new();
    let mut service = "[Service]\nType=oneshot\nEnvironmentFile=/run/quoting.env\n".to_owned();
    let mut wanted = Vec::new();
    for (n, value) in in_environment_files.iter().enumerate() {
        file.push_str(&format!("FILE_{n}={}\n", quote_environment_file(value).unwrap()));
        wanted.push(format!("FILE_{n}={value}"));
    }
    for (n, value) in in_units.iter().enumerate() {
        service.push_str(&format!("Environment=UNIT_{n}={}\n", quote_unit(value).unwrap()));
        wanted.push(format!("UNIT_{n}={value}"));
    }
    service.push_str("ExecStart=/bin/sh -c 'env -0 > /run/quoting.out'\n");

    let node = Node::fresh();
    node.write("/run/quoting.env", &file);
    node.write("/run/systemd/system/quoting.service", &service);
    node.shell("systemctl daemon-reload && systemctl start quoting.service");
    let read = node.read("/run/quoting.out");
    let read: Vec<&str> = read.split('\0').collect();
    for pair in wanted {
        assert!(read.contains(&pair.as_str()), "systemd did not read {pair:?} from\n{file}{service}\nbut {read:?}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    for value in ["", "two words", "a\nb", "$x", "a\"b", "a\\b", "a'b"] {
        quote_unit(value).unwrap_err();
    }
    quote_environment_file("a\nb").unwrap_err();
}
