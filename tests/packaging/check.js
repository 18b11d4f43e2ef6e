// What packaging/terraform and packaging/packer must hold and no scanner knows, checked on what a
// real parser makes of them. Then the same on copies that are broken, each in one way: each must be
// noticed. Run by ./run, which installs the parser.

const fs = require("fs");
const path = require("path");
const { parse } = require("@cdktf/hcl2json");

const PACKAGING = path.join(__dirname, "../../packaging");
const VARIABLES = ["public_key", "trusted_cidr", "agent_asg_name", "s3_log_bucket_name", "image", "name", "instance_types"];
const OUTPUTS = [
  "bastion_ip", "gateway_ip", "master_ip", "prereqs_ips", "instance_ids", "default_role_arn", "default_sg_id",
  "agent_asg_name", "vpc_id",
];
// What no policy can allow for some resources only, beside Describe and List: Session Manager's.
const FREE = /:(Describe|List)|^ssmmessages:(Create|Open)(Control|Data)Channel$|^ssm:UpdateInstanceInformation$/;
const TOKENS = {
  bastion: "required", prereqs: "required",
  master: "${var.titus_http_tokens}", gateway: "${var.titus_http_tokens}", agent: "${var.titus_http_tokens}",
};
// The tags that titus-bootstrap reads: TAGS in src/settings/mod.rs.
const TAGS = ["role", "stack", "prereqs", "zookeeper.servers", "master.address", "agent.log_bucket", "agent.asg"];

// Those that the image of the example allows.
const ALLOWED = /^allowed_tags = (\[.*\])$/m.exec(fs.readFileSync(path.join(PACKAGING, "terraform/image.toml"), "utf8"))[1];

/** The texts of a folder's files, by name. */
function read(folder, ending) {
  const names = fs.readdirSync(path.join(PACKAGING, folder)).filter((name) => name.endsWith(ending));
  return Object.fromEntries(names.map((name) => [name, fs.readFileSync(path.join(PACKAGING, folder, name), "utf8")]));
}

/** All blocks of some files: `blocks.resource.aws_instance.master` is the list of those so called. */
async function blocksOf(files) {
  const all = {};
  const merge = (into, from) => {
    for (const [key, value] of Object.entries(from)) {
      if (Array.isArray(value)) into[key] = (into[key] || []).concat(value);
      else if (value && typeof value === "object") merge((into[key] ||= {}), value);
      else into[key] = value;
    }
  };
  for (const [name, text] of Object.entries(files)) merge(all, await parse(name, text));
  return all;
}

/** Each block of a type, with its name. */
const named = (types, type) =>
  Object.entries((types || {})[type] || {}).flatMap(([name, blocks]) => blocks.map((block) => [name, block]));
const list = (value) => (value === undefined ? [] : [].concat(value));
const same = (a, b) => JSON.stringify([...a].sort()) === JSON.stringify([...b].sort());

/** What is wrong with the Terraform files. */
async function terraform(files) {
  const blocks = await blocksOf(files);
  const problems = [];
  const must = (holds, problem) => holds || problems.push(problem);

  for (const name of VARIABLES) must(blocks.variable[name], `variable ${name} is missing`);
  must(same(Object.keys(blocks.output), OUTPUTS), `the outputs are not ${OUTPUTS}`);

  const tokens = (blocks.variable.titus_http_tokens || [{}])[0];
  must(tokens.default === "optional", "titus_http_tokens is not optional where nothing is said");
  must(/IMDSv1/.test(tokens.description), "titus_http_tokens does not say why");

  const instances = [...named(blocks.resource, "aws_instance"), ...named(blocks.resource, "aws_launch_template")];
  must(same(instances.map(([name]) => name), Object.keys(TOKENS)), `the nodes are not ${Object.keys(TOKENS)}`);
  for (const [name, node] of instances) {
    const metadata = list(node.metadata_options)[0] || {};
    must(metadata.http_endpoint === "enabled", `${name}: no metadata`);
    must(metadata.instance_metadata_tags === "enabled", `${name}: no tags in its metadata`);
    must(metadata.http_tokens === TOKENS[name], `${name}: http_tokens is ${metadata.http_tokens}`);
    const disks = [...list(node.root_block_device), ...list(node.block_device_mappings).flatMap((disk) => list(disk.ebs))];
    must(disks.length > 0 && disks.every((disk) => disk.encrypted === true), `${name}: a volume is not encrypted`);
    const tags = node.tags || list(node.tag_specifications).find((tags) => tags.resource_type === "instance").tags;
    const ours = Object.keys(tags).filter((key) => key.startsWith("titus:"));
    for (const key of Object.keys(tags)) {
      must(/^[\w+=.,:@-]+$/.test(key), `${name}: tag ${key} cannot be in metadata`);
    }
    for (const key of ours) must(TAGS.includes(key.slice(6)), `${name}: nobody reads the tag ${key}`);
    for (const key of ours) must(JSON.parse(ALLOWED).includes(key.slice(6)), `${name}: the image ignores the tag ${key}`);
    if (name === "bastion") {
      must(ours.length === 0 && node.user_data === undefined, "bastion: has the tags or user data of a Titus node");
      continue;
    }
    must(tags["titus:role"] === name, `${name}: its role is ${tags["titus:role"]}`);
    must(node.user_data !== undefined, `${name}: no user data`);
  }

  // What holds data, and what chooses the image: a second apply must not replace them.
  const [volume] = blocks.resource.aws_ebs_volume.prereqs;
  must(list(volume.lifecycle)[0]?.prevent_destroy === true, "the data of prereqs can be destroyed");
  const [prereqs] = blocks.resource.aws_instance.prereqs || [{}];
  must(same(list(list(prereqs.lifecycle)[0]?.ignore_changes), ["${ami}", "${user_data}"]), "a new image replaces prereqs");
  must(blocks.data.aws_ami.node[0].most_recent === undefined, "the nodes' image is the newest of a pattern");
  must(blocks.variable.image?.[0].default === undefined, "an image is chosen for nobody");
  const [group] = blocks.resource.aws_autoscaling_group.agent;
  must(group.initial_lifecycle_hook && group.instance_refresh, "agents: no lifecycle hook or no instance refresh");

  for (const [name, document] of named(blocks.data, "aws_iam_policy_document")) {
    const dynamic = list(document.dynamic?.statement).flatMap((block) => list(block.content));
    for (const { actions, resources, not_actions } of list(document.statement).concat(dynamic)) {
      must(!not_actions, `policy ${name}: not_actions allows what nobody thought of`);
      must(!list(actions).some((action) => action.includes("*")), `policy ${name}: actions ${actions}`);
      const free = list(actions).every((action) => FREE.test(action));
      must(free || !list(resources).includes("*"), `policy ${name}: ${actions} on everything`);
    }
  }
  // So that the documents above are all there is.
  for (const [name, { policy }] of named(blocks.resource, "aws_iam_role_policy")) {
    must(policy === "${each.value}", `role policy ${name} is not one of the documents`);
  }
  for (const type of Object.keys(blocks.resource)) {
    must(!/^aws_iam_.*(attachment|policy|policies_exclusive)$/.test(type) || type === "aws_iam_role_policy", `${type} adds policies`);
  }
  for (const [name, role] of named(blocks.resource, "aws_iam_role")) {
    must(!role.managed_policy_arns && !role.inline_policy, `role ${name} has further policies`);
  }
  for (const [name, rule] of named(blocks.resource, "aws_vpc_security_group_ingress_rule")) {
    const from = rule.cidr_ipv4 || rule.cidr_ipv6;
    must(from === undefined || from === "${var.trusted_cidr}", `ingress rule ${name} lets ${from} in`);
  }
  return problems.concat(references(blocks));
}

/** Names that nothing declares, and circles: what `terraform validate` would say, had it a provider here. */
function references(blocks) {
  const uses = {};
  const words = (value) =>
    [...JSON.stringify(value).matchAll(/(?<![\w.:])(?:(?:data\.)?aws_\w+\.\w+|(?:var|local)\.\w+)/g)].map(([word]) => word);
  for (const [kind, prefix] of [["resource", ""], ["data", "data."]]) {
    for (const type of Object.keys(blocks[kind])) {
      for (const [name, block] of named(blocks[kind], type)) uses[`${prefix}${type}.${name}`] = words(block);
    }
  }
  for (const [name, value] of Object.entries(blocks.variable)) uses[`var.${name}`] = words(value[0].default || "");
  for (const locals of blocks.locals) {
    for (const [name, value] of Object.entries(locals)) uses[`local.${name}`] = words(value);
  }
  const problems = [];
  const done = new Set();
  const visit = (name, way) => {
    if (!uses[name]) problems.push(`${way[way.length - 1]} uses ${name}, which is nowhere`);
    else if (way.includes(name)) problems.push(`a circle: ${[...way.slice(way.indexOf(name)), name].join(" -> ")}`);
    else if (!done.has(name)) {
      uses[name].forEach((used) => visit(used, [...way, name]));
      done.add(name);
    }
  };
  Object.keys(uses).forEach((name) => visit(name, []));
  words(blocks.output).forEach((name) => visit(name, ["an output"]));
  return problems;
}

/** What is wrong with the Packer files. */
async function packer(files) {
  const problems = [];
  const must = (holds, problem) => holds || problems.push(problem);
  const { "plugins.pkr.hcl": plugins, "provision.sh": script, ...rest } = files;
  const { packer: [{ required_plugins: [needs] }] } = await parse("plugins.pkr.hcl", plugins);
  must(same(Object.keys(needs), ["amazon", "docker"]), "the plugins are not amazon and docker");
  const template = await blocksOf(rest);
  must(!template.packer, "titus.pkr.hcl has a block that Packer 1.6.6 rejects");
  must(template.variable.roles[0].type === "${list(string)}", "roles is no list");
  const [build] = template.build;
  must(same(build.sources, ["source.amazon-ebs.titus", "source.docker.titus"]), "not both builders are used");
  const scripts = list(build.provisioner.shell).map((shell) => shell.script);
  must(scripts.join() === "${path.root}/check.sh,${path.root}/provision.sh", "the settings are not checked first");
  const [ami] = list(template.source["amazon-ebs"].titus);
  must(ami.encrypt_boot === true, "the AMI is not encrypted");
  must(ami.imds_support === "v2.0" && list(ami.metadata_options)[0]?.http_tokens === "required", "the AMI is not for IMDSv2");
  must(script.trim().endsWith("\ntitus-bootstrap seal"), "provision.sh does not end with the seal");
  return problems;
}

/** Copies that are broken: the check, the file, what in it becomes what, and what must be said. */
const BROKEN = [
  [terraform, "ec2.tf", /http_tokens {12}= "required"/, 'http_tokens = "optional"', /bastion: http_tokens is optional/],
  [terraform, "ec2.tf", /"prereqs" \{([^]*?) +instance_metadata_tags.*\n/, '"prereqs" {$1', /prereqs: no tags in its metadata/],
  [terraform, "ec2.tf", /encrypted {3}= true/, "", /agent: a volume is not encrypted/],
  [terraform, "ec2.tf", /prevent_destroy = true/, "", /the data of prereqs can be destroyed/],
  [terraform, "ec2.tf", /\[ami, user_data\]/, "[user_data]", /a new image replaces prereqs/],
  [terraform, "ec2.tf", /initial_lifecycle_hook \{/, "tag {", /no lifecycle hook/],
  [terraform, "image.tf", /owners = \[var/, "most_recent = true\n  owners = [var", /the newest of a pattern/],
  [terraform, "iam.tf", /"ssm:UpdateInstanceInformation"/, '"ssm:GetParameter"', /policy node: ssm:GetParameter.* on everything/],
  [terraform, "ec2.tf", /"titus:agent.asg"/, '"titus:agent.group"', /gateway: nobody reads the tag titus:agent.group/],
  [terraform, "ec2.tf", /"titus:zookeeper.servers"/, '"titus:prereqs"', /the image ignores the tag titus:prereqs/],
  [terraform, "ec2.tf", /"aws_instance" "bastion"/, '"aws_instance" "bastian"', /the nodes are not/],
  [terraform, "variables.tf", /default {5}= "optional"/, 'default = "required"', /titus_http_tokens is not optional/],
  [terraform, "variables.tf", /variable "public_key"/, 'variable "key"', /variable public_key is missing/],
  [terraform, "outputs.tf", /output "vpc_id"/, 'output "vpc"', /the outputs are not/],
  [terraform, "iam.tf", /"ec2:CreateTags", "ec2:TerminateInstances"/, '"*"', /policy master: actions \*/],
  [terraform, "iam.tf", /"ec2:DescribeTags"/, '"ec2:*"', /policy node: actions ec2:.*ec2:\*/],
  [terraform, "iam.tf", /\["\$\{aws_s3_bucket.log.arn\}\/\*"\]/, '["*"]', /policy agent: s3:PutObject.* on everything/],
  [terraform, "iam.tf", /policy {3}= each.value/, 'policy = "{}"', /role policy node is not one of the documents/],
  [terraform, "iam.tf", /$/, 'resource "aws_iam_role_policy_attachment" "a" {}', /attachment adds policies/],
  [terraform, "iam.tf", /toset\(local.node_roles\)/, "toset(keys(local.node_policies))", /a circle: /],
  [terraform, "sg.tf", /= var.trusted_cidr/, '= "0.0.0.0/0"', /ingress rule bastion lets 0.0.0.0\/0 in/],
  [terraform, "vpc.tf", /aws_vpc.titus.id/, "aws_vpc.main.id", /uses aws_vpc.main, which is nowhere/],
  [packer, "provision.sh", /\ntitus-bootstrap seal/, "", /does not end with the seal/],
  [packer, "titus.pkr.hcl", /, "source.docker.titus"/, "", /not both builders/],
  [packer, "titus.pkr.hcl", /\/check.sh/, "/provision.sh", /not checked first/],
  [packer, "titus.pkr.hcl", /imds_support = "v2.0"/, "", /not for IMDSv2/],
  [packer, "titus.pkr.hcl", /^/, "packer {}\n", /rejects/],
];

async function main() {
  const sound = new Map([
    [terraform, read("terraform", ".tf")],
    [packer, { ...read("packer", ".hcl"), ...read("packer", "provision.sh") }],
  ]);
  const problems = [];
  for (const [check, files] of sound) problems.push(...(await check(files)));
  for (const [check, name, from, to, expected] of BROKEN) {
    const files = { ...sound.get(check) };
    const text = files[name];
    files[name] = text.replace(from, to);
    const found = await check(files);
    if (files[name] === text) problems.push(`self-test: ${name} has no ${from}`);
    else if (!found.some((problem) => expected.test(problem))) {
      problems.push(`self-test: ${from} -> ${to} in ${name} was not noticed, but: ${found.join("; ") || "nothing"}`);
    }
  }
  problems.forEach((problem) => console.error(`packaging: ${problem}`));
  if (problems.length > 0) process.exit(1);
  console.log(`packaging: sound, and ${BROKEN.length} broken copies noticed`);
}

main().catch((error) => {
  console.error(`packaging: ${error.message || error}`);
  process.exit(1);
});
