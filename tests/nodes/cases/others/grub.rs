//! GRUB as others left it: their kernels, drop-ins and defaults.

use crate::harness::agent;
use crate::harness::node::Node;

/// What grub-mkconfig 2.06 of Debian 12 does, with its marks. The nodes have no GRUB; these scripts have its names.
const UPDATE_GRUB: &str = r##"#!/bin/sh
set -e
for file in /etc/default/grub /etc/default/grub.d/*.cfg; do [ ! -e "$file" ] || . "$file"; done
[ "x$GRUB_DEFAULT" != x ] || GRUB_DEFAULT=0
[ "x$GRUB_DEFAULT" != xsaved ] || GRUB_DEFAULT='${saved_entry}'
export GRUB_DEFAULT GRUB_CMDLINE_LINUX GRUB_CMDLINE_LINUX_DEFAULT
for script in /etc/grub.d/*; do
    [ -x "$script" ] || continue
    printf '\n### BEGIN %s ###\n' "$script"
    "$script"
    printf '### END %s ###\n' "$script"
done > /boot/grub/grub.cfg.new
mv /boot/grub/grub.cfg.new /boot/grub/grub.cfg
"##;

const HEADER: &str = r#"#!/bin/sh
cat << EOF
if [ "\${next_entry}" ] ; then
   set default="\${next_entry}"
   set next_entry=
else
   set default="$GRUB_DEFAULT"
fi
EOF
"#;

const LINUX: &str = r#"#!/bin/sh
kernel="/boot/vmlinuz-6.1.0-test root=UUID=1 ro"
cat << EOF
menuentry 'Debian GNU/Linux' --class debian \$menuentry_id_option 'gnulinux-simple-1' {
	linux	$kernel $GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT
}
submenu 'Advanced options for Debian GNU/Linux' \$menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-test (recovery mode)' \$menuentry_id_option 'gnulinux-recovery-1' {
		linux	$kernel single $GRUB_CMDLINE_LINUX
	}
}
EOF
"#;

const OTHERS: &str = r#"#!/bin/sh
cat << EOF
menuentry "Memory test (memtest86+)" {
	linux16	/boot/memtest86+.bin
}
menuentry 'Ubuntu 22.04 (on /dev/sdb1)' \$menuentry_id_option 'osprober-gnulinux-simple-2' {
	linux	/boot/vmlinuz-5.15.0-1-generic root=/dev/sdb1 quiet
}
EOF
"#;

const CUSTOM: &str = r#"#!/bin/sh
exec tail -n +3 $0
menuentry 'Rescue' --id rescue {
	linux /boot/vmlinuz-rescue root=/dev/sda9
}
"#;

#[test]
fn other_kernels_need_no_arguments_and_what_removes_ours_is_named() {
    let node = Node::converged();
    let _services = agent::services(&node);
    node.write("/usr/sbin/update-grub", UPDATE_GRUB);
    for (name, text) in [("00_header", HEADER), ("10_linux", LINUX), ("30_os-prober", OTHERS), ("40_custom", CUSTOM)] {
        node.write(&format!("/etc/grub.d/{name}"), text);
    }
    node.shell("chmod +x /etc/grub.d/*; update-grub");
    node.bootstrap(&["apply"]).ends_with(0);
    let again = agent::apply(&node);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());

    // How the node is broken, what is reported, and the printed fix; where that is for a person, what they do.
    for (breaks, words, fix, is_command) in [
        (
            "echo 'GRUB_CMDLINE_LINUX=\"quiet\"' > /etc/default/grub.d/99-mine.cfg",
            ["/etc/default/grub.d/99-mine.cfg:1 removes kernel arguments", "without net.ifnames=0"],
            "mv /etc/default/grub.d/99-mine.cfg /etc/default/grub.d/89-mine.cfg",
            true,
        ),
        (
            "echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"console=tty1 net.ifnames=1\"' > /etc/default/grub.d/50-cloudimg-settings.cfg",
            [
                "50-cloudimg-settings.cfg:1 removes",
                "remove net.ifnames=1 from line 1 of /etc/default/grub.d/50-cloudimg",
            ],
            "sed -i '1s/ net.ifnames=1//' /etc/default/grub.d/50-cloudimg-settings.cfg",
            false,
        ),
        (
            "echo GRUB_DEFAULT=saved >> /etc/default/grub; echo saved_entry=rescue > /boot/grub/grubenv; update-grub",
            ["GRUB boots \"Rescue\", which lacks net.ifnames=0", "grub-set-default 0"],
            // As grub-set-default(8).
            "echo saved_entry=0 > /boot/grub/grubenv",
            false,
        ),
        (
            "chmod -x /etc/grub.d/10_linux; update-grub",
            ["/etc/grub.d/10_linux is disabled", "not executable"],
            "chmod +x /etc/grub.d/10_linux",
            true,
        ),
    ] {
        node.shell(breaks);
        for command in ["plan", "apply"] {
            let refused = node.bootstrap(&[command]).ends_with(69).reports(&words);
            assert!(!is_command || refused.err.contains(&format!("fix:   {fix}")), "{}", refused.transcript());
        }
        node.bootstrap(&["verify"]).ends_with(1).prints(&words[..1]);
        node.shell(fix);
        node.bootstrap(&["apply"]).ends_with(0);
        let grub_cfg = node.read("/boot/grub/grub.cfg");
        assert_eq!(grub_cfg.matches("net.ifnames=0").count(), 2, "both kernels of the distribution's: {grub_cfg}");
    }
    // grub.cfg is as update-grub would write it: the next kernel package takes nothing away.
    let written = node.read("/boot/grub/grub.cfg");
    node.shell("update-grub");
    assert_eq!(node.read("/boot/grub/grub.cfg"), written);
    node.bootstrap(&["verify"]).ends_with(0);
}
