//! Names that AWS defines: buckets, roles, security groups, instance types, tags, hooks.

use super::{check_length, check_word, forms, no_advice, require};

forms! {
    /// An S3 bucket.
    Bucket: "s3-bucket", "the name of an S3 bucket: 3 to 63 of lower-case letters, digits, `.` and `-`", "my-logs", bucket, |text| {
        let rest = text.strip_prefix("s3://").or_else(|| text.strip_prefix("arn:aws:s3:::"));
        let rest = rest.or_else(|| text.split_once("://").map(|(_, rest)| rest))?;
        let first = rest.split('/').next()?;
        let first = first.split(".s3.").next()?;
        bucket(first).ok().map(|()| format!("write `{first}`"))
    };
    /// An IAM role: its ARN, or its name in the master's account.
    IamRole: "iam-role", "the ARN of an IAM role, or its name", "arn:aws:iam::123456789012:role/titus", iam_role, no_advice;
    /// Security groups, separated by commas, which is how the Titus master reads them.
    SecurityGroups: "security-groups", "1 to 6 ids of security groups with commas between them", "sg-0123456789abcdef0",
        security_groups, |text| {
        let parts: Vec<&str> = text.split([',', ' ', ';']).map(str::trim).filter(|part| !part.is_empty()).collect();
        let meant = parts.join(",");
        (meant != text && security_groups(&meant).is_ok()).then(|| format!("write `{meant}`"))
    };
    /// An instance type.
    InstanceType: "instance-type", "an instance type", "m4.large", instance_type, no_advice;
    /// A family of instance types.
    Family: "instance-family", "a family of instance types", "m4", family, |text| {
        let (name, _) = text.split_once('.')?;
        family(name).ok().map(|()| format!("write `{name}` for all of the family; agent.vpc_driver takes a list of types"))
    };
    /// The key of an instance tag.
    TagKey: "tag-key", "the key of an instance's tag, without `*`, `?` and `\\`, which EC2's filters read otherwise", "titus:role",
        |text| tag(text, 128), no_advice;
    /// The value of an instance tag.
    TagValue: "tag-value", "the value of an instance's tag, without `*`, `?` and `\\`, which EC2's filters read otherwise", "prereqs",
        |text| tag(text, 256), no_advice;
    /// A lifecycle hook of an Auto Scaling group.
    Hook: "lifecycle-hook", "the name of a lifecycle hook: letters, digits, `-`, `_` and `/`", "titus-bootstrap",
        |text| check_word(text, "-_/").and_then(|()| check_length(text, 255)), no_advice;
    /// An Auto Scaling group, which is also a Mesos attribute.
    GroupName: "auto-scaling-group", "the name of an Auto Scaling group, without quotes, `;`, `:`, `$`, `\\` and blanks", "titusagent",
        |text| check_word(text, "._-/@+=()#,~").and_then(|()| check_length(text, 255)), no_advice;
}

/// Rules of general-purpose buckets ("Bucket naming rules", Amazon S3 User Guide).
fn bucket(text: &str) -> Result<(), String> {
    if let Some(c) = text.chars().find(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !".-".contains(*c)) {
        return Err(format!("{c:?} is not allowed"));
    }
    if !(3..=63).contains(&text.len()) {
        return Err(format!("it has {} characters", text.len()));
    }
    if text.starts_with(['.', '-']) || text.ends_with(['.', '-']) {
        return Err("it must begin and end with a letter or a digit".into());
    }
    if text.contains("..") {
        return Err("it has two adjacent dots".into());
    }
    if text.split('.').count() == 4 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err("it looks like an address".into());
    }
    let begins = ["xn--", "sthree-", "amzn-s3-demo-"].into_iter().find(|prefix| text.starts_with(prefix));
    let ends =
        ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].into_iter().find(|suffix| text.ends_with(suffix));
    match begins.or(ends) {
        Some(reserved) => Err(format!("S3 reserves `{reserved}`")),
        None => Ok(()),
    }
}

fn iam_role(text: &str) -> Result<(), String> {
    if !text.starts_with("arn:") {
        let hint = if text.contains(':') {
            "it does not begin with `arn:`"
        } else {
            "a name consists of letters, digits and `+=,.@_-`"
        };
        return check_word(text, "+=,.@_-").map_err(|_| hint.to_owned()).and_then(|()| check_length(text, 64));
    }
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [_, partition, service, region, account, role] = parts[..] else {
        return Err("an ARN has six parts , separated by colons".into());
    };
    if partition != "aws" && !partition.starts_with("aws-") || check_word(partition, "-").is_err() {
        return Err("its second part must be a partition, e.g. `aws`".into());
    }
    if service != "iam" || !region.is_empty() {
        return Err("an IAM role's ARN must begin with `arn:aws:iam::`".into());
    }
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an account id has twelve digits".into());
    }
    let Some(path) = role.strip_prefix("role/") else {
        let other = role.split('/').next().unwrap_or_default();
        return Err(format!("it is the ARN of `{other}`, not of `role`"));
    };
    let is_path = path.split('/').all(|part| !part.is_empty() && check_word(part, "+=,.@_-").is_ok());
    require(is_path).map_err(|_| "the name of a role has letters, digits and `+=,.@_-`".into())
}

fn security_groups(text: &str) -> Result<(), String> {
    let groups: Vec<&str> = text.split(',').collect();
    for (n, group) in groups.iter().enumerate() {
        // Ids had 8 digits until 2016, and have 17 since.
        let digits = group.strip_prefix("sg-").unwrap_or_default();
        let is_id = [8, 17].contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if group.is_empty() {
            return Err("it has an empty entry".into());
        } else if !is_id {
            return Err(format!("{group:?} is not `sg-` followed by 8 or 17 hexadecimal digits in lower case"));
        } else if groups.iter().take(n).any(|other| other == group) {
            return Err(format!("{group} is listed twice"));
        }
    }
    require(groups.len() <= 6).map_err(|_| format!("there are {}", groups.len()))
}

fn instance_type(text: &str) -> Result<(), String> {
    let Some((name, size)) = text.split_once('.') else { return Err("it has no size after the family".into()) };
    family(name)?;
    let is_size = !size.is_empty() && size.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    require(is_size && !size.starts_with('-') && !size.ends_with('-'))
}

fn family(text: &str) -> Result<(), String> {
    let fits = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    require(fits && text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('-'))
}

fn tag(text: &str, most: usize) -> Result<(), String> {
    match text.chars().find(|c| ['*', '?', '\\'].contains(c)) {
        Some(c) => Err(format!("{c:?} is not allowed")),
        None => check_length(text, most),
    }
}
