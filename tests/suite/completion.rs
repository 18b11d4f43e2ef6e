//! Completion: an interactive shell on its own terminal, typed keys, and what it then shows.

use std::fs::write;
use std::path::Path;
use std::process::Command;

use crate::support::root::outcome;

/// Types at a shell on a terminal: in Python, because a pty needs unsafe code here. Each request is keys and a text that
/// must follow on the screen; the script exits with 1, and prints the screen, if it does not.
const TYPIST: &str = r#"
import os, pty, re, select, sys, time
shell, *requests = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(shell.split()[0], shell.split())
screen = ''
def await_text(text):
    global screen
    end = time.monotonic() + 60
    while text not in screen:
        if not select.select([terminal], [], [], max(0, end - time.monotonic()))[0]:
            sys.exit(f'{text!r} did not appear on\n{screen}')
        more = os.read(terminal, 65536).decode(errors='replace')
        # fish asks what the terminal is, and waits for the answer.
        if '\x1b[c' in more or '\x1b[0c' in more: os.write(terminal, b'\x1b[?62c')
        screen += re.sub(r'\x1b\[[0-9;?>=]*[a-zA-Z]|\x1b[=>()][0-9AB]?', '', more)
await_text('ready> ')
for keys, text in zip(requests[::2], requests[1::2]):
    screen = ''
    os.write(terminal, keys.encode().decode('unicode_escape').encode())
    await_text(text)
    screen = ''
    os.write(terminal, b'\x15\r')
    await_text('ready> ')
"#;

/// Keys, and the text that the shell then shows.
const REQUESTS: &[&str] = &[
    r"titus-bootstrap instance-t\t",
    "instance-type ",
    r"titus-bootstrap instance-type m4.16\t",
    "m4.16xlarge",
    r"titus-bootstrap role sh\t",
    "role show",
    r"titus-bootstrap role show mas\t",
    "master",
    r"titus-bootstrap plan --role mas\t",
    "master",
    r"titus-bootstrap plan --detailed-e\t",
    "--detailed-exitcode",
    r"titus-bootstrap plan --set agent.log_buc\t",
    "agent.log_bucket=",
    r"titus-bootstrap plan --only docker-conf\t",
    "docker-config",
    r"titus-bootstrap apply --role master --skip titus-master-pro\t",
    "titus-master-properties",
    r"titus-bootstrap explain docker-tcp-proxy.so\t",
    "docker-tcp-proxy.socket",
    r"titus-bootstrap explain mesos-agent-un\t",
    "mesos-agent-unit",
    r"titus-bootstrap render /etc/titus-sha\t",
    "/etc/titus-shared.env",
    r"titus-bootstrap logs la\t",
    "last",
    r"titus-bootstrap facts --sample --instance-type m4.16\t",
    "m4.16xlarge",
    r"titus-bootstrap why agent.log_buc\t",
    "agent.log_bucket",
];

/// `start` names the shell's start-up files in the directory, and the command that starts it.
fn completes(shell: &str, start: fn(&Path, &str) -> String) {
    if outcome(Command::new("sh").args(["-c", &format!("command -v {shell} python3")])).code != 0 {
        eprintln!("{shell} or python3 is not installed: not tried; tests/run installs them");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    let binary = Path::new(env!("CARGO_BIN_EXE_titus-bootstrap"));
    let script = outcome(Command::new(binary).args(["completions", shell])).ends_with(0).out;
    let words = start(home, &script);
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let typed = outcome(
        Command::new("python3")
            .args(["-c", TYPIST, &words])
            .args(REQUESTS)
            .envs([("PATH", path.as_str()), ("TERM", "xterm"), ("LC_ALL", "C.UTF-8")])
            .env("HOME", home)
            .env("ZDOTDIR", home)
            .env("XDG_CONFIG_HOME", home),
    );
    assert_eq!(typed.code, 0, "{}", typed.err);
}

#[test]
fn bash_completes_after_every_command() {
    completes("bash", |home, script| {
        write(home.join("rc"), format!("PS1='ready> '\n{script}")).unwrap();
        format!("bash --noprofile --rcfile {} -i", home.join("rc").display())
    });
}

/// As the deb installs it: in a directory of fpath, loaded at the first completion, which must not be empty.
#[test]
fn zsh_completes_after_every_command() {
    completes("zsh", |home, script| {
        write(home.join("_titus-bootstrap"), script).unwrap();
        let rc = "PS1='ready> '\nfpath=($HOME $fpath)\nautoload -U compinit\ncompinit -u\n";
        write(home.join(".zshrc"), rc).unwrap();
        "zsh -d -i".to_owned()
    });
}

#[test]
fn fish_completes_after_every_command() {
    completes("fish", |home, script| {
        let completions = home.join("fish/completions");
        std::fs::create_dir_all(&completions).unwrap();
        write(completions.join("titus-bootstrap.fish"), script).unwrap();
        let config = "function fish_prompt; echo -n 'ready> '; end\nset -g fish_greeting\nset -g fish_autosuggestion_enabled 0\n";
        write(home.join("fish/config.fish"), config).unwrap();
        "fish -i".to_owned()
    });
}
