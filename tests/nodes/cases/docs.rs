//! The commands that the documents have for a live node (`console node`; see tests/suite/docs/blocks.rs), in the order in which a
//! reader comes to them: from the deb to a converged agent, then what the guides do with it.

use crate::docs::{blocks, document, documents};
use crate::harness::agent;
use crate::harness::deb::deb;
use crate::harness::image;
use crate::harness::node::Node;

#[test]
fn commands_for_a_node_do_what_the_documents_show() {
    let mut node = Node::off_without_program(&image::converged().image, None);
    node.boot();
    let _services = agent::services(&node);
    // What the reader has by then.
    let settings = agent::settings_text("titus-log-bucket-terraform-example", "");
    node.write("/root/settings.toml", &settings);
    let name = deb().file_name().unwrap().to_str().unwrap();
    std::fs::copy(deb(), node.path("/root").join(name)).unwrap();

    let mut names = documents();
    names.sort_by_key(|name| name != "README.md");
    let mut ran = 0;
    for name in names {
        for block in blocks::blocks(&document(&name)).iter().filter(|block| block.is("node")) {
            for (command, shown) in block.commands() {
                let run = node.run(&["bash", "-c", &format!("cd /root\nexec 2>&1\n{command}")]);
                assert_eq!(run.code, 0, "{name}: `{command}`: {}", run.transcript());
                let printed: Vec<String> = run.out.lines().map(str::to_owned).collect();
                assert!(shown.is_empty() || blocks::shows(&shown, &printed), "{name}: `{command}` prints\n{}", run.out);
                ran += 1;
            }
        }
    }
    assert!(ran >= 15, "only {ran} commands were found");
}
