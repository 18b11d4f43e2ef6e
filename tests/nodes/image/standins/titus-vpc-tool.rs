//! A stand-in for titus-vpc-tool of titus-executor 20180516.0: it speaks version 1 of the metadata service alone, knows
//! the types of instances that the real one knows, and panics for every other as a Go program does.
//!
//! `setup` and `gc` ask what the real ones ask first, and attach and detach nothing.

use std::{env, fs, process};

use http::Answer;
use json::field;

mod http;
mod json;

const METADATA: &str = "169.254.169.254:80";
const STATE: &str = "/run/titus-vpc-tool";

/// Type, network interfaces, IPv4 addresses of each (vpc/limits.go).
const LIMITS: [(&str, &[(&str, u32, u32)]); 5] = [
    (
        "c5",
        &[
            ("large", 3, 10),
            ("xlarge", 4, 15),
            ("2xlarge", 4, 15),
            ("4xlarge", 4, 30),
            ("9xlarge", 4, 30),
            ("18xlarge", 4, 50),
        ],
    ),
    (
        "m4",
        &[
            ("large", 2, 10),
            ("xlarge", 4, 15),
            ("2xlarge", 4, 15),
            ("4xlarge", 8, 30),
            ("10xlarge", 8, 30),
            ("16xlarge", 8, 30),
        ],
    ),
    (
        "m5",
        &[
            ("large", 3, 10),
            ("xlarge", 4, 15),
            ("2xlarge", 4, 15),
            ("4xlarge", 8, 30),
            ("12xlarge", 8, 30),
            ("24xlarge", 15, 30),
        ],
    ),
    ("p2", &[("xlarge", 4, 15), ("8xlarge", 8, 30), ("16xlarge", 8, 30)]),
    (
        "r4",
        &[
            ("large", 3, 10),
            ("xlarge", 4, 15),
            ("2xlarge", 4, 15),
            ("4xlarge", 8, 30),
            ("8xlarge", 8, 30),
            ("16xlarge", 15, 50),
        ],
    ),
];

/// The calls that lead to the panic, the innermost first.
const TRACE: [(&str, &str); 12] = [
    ("github.com/Netflix/titus-executor/vpc.getLimits(0xc4201a6090, 0xa, 0x0, 0x0, 0x0, 0x0)", "vpc/limits.go:239"),
    ("github.com/Netflix/titus-executor/vpc.GetMaxInterfaces(0xc4201a6090, 0xa, 0x0)", "vpc/limits.go:247"),
    ("github.com/Netflix/titus-executor/vpc/genconf.doGenConf(0xc42018e000, 0x0, 0x0)", "vpc/genconf/genconf.go:41"),
    ("github.com/Netflix/titus-executor/vpc/genconf.genConf(0xc42018e000, 0x0, 0x0)", "vpc/genconf/genconf.go:33"),
    (
        "github.com/Netflix/titus-executor/vpc/context.WrapFunc.func1(0xc4200ee840, 0x0, 0xc42004f4c0)",
        "vpc/context/context.go:223",
    ),
    ("reflect.Value.call(0x8a5a40, 0xc42000e3d0, 0x13, 0x92d6a4, 0x4, 0xc4200c9a10)", "reflect/value.go:447"),
    ("reflect.Value.Call(0x8a5a40, 0xc42000e3d0, 0x13, 0xc4200c9a10, 0x1, 0x1)", "reflect/value.go:308"),
    (
        "gopkg.in/urfave/cli%2ev1.HandleAction(0x8a5a40, 0xc42000e3d0, 0xc4200ee840, 0x0, 0x0)",
        "vendor/gopkg.in/urfave/cli.v1/app.go:484",
    ),
    (
        "gopkg.in/urfave/cli%2ev1.Command.Run(0x92f6bf, 0x7, 0x0, 0x0, 0x0, 0x0, 0x0)",
        "vendor/gopkg.in/urfave/cli.v1/command.go:193",
    ),
    (
        "gopkg.in/urfave/cli%2ev1.(*App).Run(0xc4200f8000, 0xc42000c0c0, 0x3, 0x3, 0x0, 0x0)",
        "vendor/gopkg.in/urfave/cli.v1/app.go:250",
    ),
    ("main.main()", "cmd/titus-vpc-tool/main.go:51"),
    ("runtime.main()", "runtime/proc.go:198"),
];

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["genconf", "--resource-sets-only"] => {
            let (interfaces, addresses) = limits(&instance_type());
            println!("ResourceSet-ENIs-{}-{addresses}", interfaces - 1);
        }
        [command @ ("setup" | "gc")] => {
            let instance_type = instance_type();
            if let Err(why) = get("meta-data/network/interfaces/macs/") {
                fail(&why, &format!("Unable to {command} interfaces"));
            }
            if command == "setup" {
                limits(&instance_type);
            }
        }
        _ => fail("", "titus-vpc-tool (stand-in): setup, gc, or genconf --resource-sets-only"),
    }
}

fn fail(why: &str, message: &str) -> ! {
    if !why.is_empty() {
        eprintln!("level=error msg=\"{why}\" debugMode=false origin=aws");
        eprintln!("level=warning msg=\"Unable to setup EC2 client: {message}\"");
    }
    eprintln!("{message}");
    process::exit(1)
}

/// What this instance's identity document says.
fn instance_type() -> String {
    if let Err(why) = get("meta-data/instance-id") {
        fail(&why, "EC2 metadata service unavailable");
    }
    let document =
        get("dynamic/instance-identity/document").unwrap_or_else(|why| fail(&why, "Unable to get instance identity"));
    if let Err(why) = fs::create_dir_all(STATE) {
        fail(&format!("{STATE}: {why}"), "Unable to create the state directory");
    }
    field(&document, "instanceType").unwrap_or_default().to_owned()
}

/// As the AWS SDK for Go 1.12.79: no token.
fn get(item: &str) -> Result<String, String> {
    let failed = |why: String| {
        format!(
            "DEBUG: Validate Response ec2metadata/GetMetadata failed, not retrying, error EC2MetadataError: failed to make EC2Metadata request\\n{why}"
        )
    };
    let ask = |stream| http::ask(&stream, METADATA, "GET", &format!("/latest/{item}"), "");
    match http::connect(METADATA).and_then(ask) {
        Ok(Answer(status, _, body)) if status == "200 OK" => Ok(body),
        Ok(Answer(status, ..)) => Err(failed(format!("caused by: {}", status.replacen(' ', " - ", 1)))),
        Err(why) => Err(failed(format!("caused by: Get http://{METADATA}/latest/{item}: {why}"))),
    }
}

fn limits(instance_type: &str) -> (u32, u32) {
    let (family, subtype) = instance_type.split_once('.').unwrap_or((instance_type, ""));
    let Some((_, subtypes)) = LIMITS.iter().find(|(name, _)| *name == family) else {
        panic(&format!("Unknown family: {family}"));
    };
    let found = subtypes.iter().find(|(name, ..)| *name == subtype);
    let (_, interfaces, addresses) = found.unwrap_or_else(|| panic(&format!("Unknown subtype for family: {subtype}")));
    (*interfaces, *addresses)
}

/// As a Go program: what is wrong, and then where, at length.
fn panic(why: &str) -> ! {
    eprintln!("panic: {why}\n\ngoroutine 1 [running]:");
    for (call, place) in TRACE {
        eprintln!("{call}\n\t/go/src/github.com/Netflix/titus-executor/{place} +0x8c");
    }
    process::exit(2)
}
